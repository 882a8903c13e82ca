"""One agent at the other end, honest or hostile."""

from __future__ import annotations

import json
import random
import signal
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from runnerd.machines import frames
from runnerd.machines.channel import CONNECTIONS, UNREAD, Channel
from runnerd.machines.driver import Connection, MachineLost
from runnerd.machines.frames import DATA, EOF, EXIT, HELLO, MORE, PING, PONG, REQ, RES, RESET, WINDOW

from .conftest import Peer, start_agent


@asynccontextmanager
async def listening(peer: Peer, handler: Connection, port: int = 80) -> AsyncIterator[None]:
    """Offer a port on a channel whose peer grants it."""

    async def grant() -> None:
        asked = await peer.receive()
        await peer.send(RES, asked.stream, b"{}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grant)
        await peer.channel.listen(port, handler)
    yield


async def swallow(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        pass


async def never(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def test_call_and_answer(agent_channel: Channel) -> None:
    """A real agent greets and answers; what it refuses is raised with its errno and its sentence."""
    assert agent_channel.hello["protocol"] == frames.VERSION
    assert await agent_channel.call("ping") == {}
    await agent_channel.ping()
    with pytest.raises(FileNotFoundError, match="cannot run nonesuch"):
        await agent_channel.call("exec", argv=["nonesuch"], env={})
    with pytest.raises(ValueError, match="bad request"):
        await agent_channel.call("nonesuch")
    assert not agent_channel.ended


async def test_many_calls_at_once(agent_channel: Channel) -> None:
    """Answers find their requests."""

    async def ask(number: int) -> None:
        with pytest.raises(FileNotFoundError, match=f"cannot run no-{number}:"):
            await agent_channel.call("exec", argv=[f"no-{number}"], env={})

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number)


async def test_second_host_finds_a_frozen_agent(agent_file: Path, tmp_path: Path) -> None:
    """After quiesce another channel over the same stream gets its own session, past all stale bytes."""
    process, ours = start_agent(agent_file, tmp_path)
    try:
        for _ in range(2):
            channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours.dup())))
            async with trio.open_nursery() as nursery:
                await nursery.start(channel.run)
                await channel.connect(10)
                await channel.call("quiesce")
                channel.close("frozen")
            with pytest.raises(MachineLost, match="frozen"):
                await channel.call("ping")
            ours.sendall(frames.HEADER.pack(b"RDA1", frames.DATA, 0, 0, 4, 60_000) + b"half a frame")
    finally:
        ours.close()
        process.wait(timeout=30)


async def test_greeting_is_repeated_behind_a_filler(autojump_clock: trio.testing.MockClock) -> None:
    """An agent stuck in the middle of a stale frame hears the second HELLO; none at all is a lost machine."""
    for answers in (True, False):
        ours, theirs = trio.testing.memory_stream_pair()
        channel = Channel(ours)
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            peer = Peer(channel, theirs)

            async def agent(peer: Peer = peer, answers: bool = answers) -> None:
                first = await peer.receive()
                got = b""
                while not got.endswith(first.payload):
                    got += await peer.stream.receive_some()
                assert got.startswith(frames.FILLER)
                if answers:
                    fields = {"nonce": json.loads(first.payload)["nonce"], "protocol": frames.VERSION}
                    await peer.send(frames.HELLO_ACK, 0, json.dumps(fields).encode())

            nursery.start_soon(agent)
            started = trio.current_time()
            if answers:
                assert (await channel.connect(5))["protocol"] == frames.VERSION
                assert trio.current_time() - started == 1
            else:
                with pytest.raises(MachineLost, match="did not answer within 5 s"):
                    await channel.connect(5)
                assert trio.current_time() - started == 5
            channel.close("over")


async def test_another_protocol_is_refused() -> None:
    """An agent of another version costs the machine, with both numbers named."""
    ours, theirs = trio.testing.memory_stream_pair()
    channel = Channel(ours, nonce=lambda: "n")
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        await theirs.send_all(frames.pack(frames.HELLO_ACK, 0, b'{"nonce": "n", "protocol": 1}'))
        with pytest.raises(MachineLost, match="protocol 1, this host speaks 2: build the image anew"):
            await channel.connect(5)


async def test_silent_agent_is_lost(peer: Peer, autojump_clock: trio.testing.MockClock) -> None:
    """A call without an answer ends the machine after its deadline, and everybody hears why."""
    with pytest.raises(MachineLost, match="did not answer 'thaw' within 3 s"):
        await peer.channel.call("thaw", deadline=3)
    assert peer.channel.lost.is_set()
    with pytest.raises(MachineLost, match="did not answer 'thaw'"):
        await peer.channel.ping()


async def test_ping_without_pong_is_lost(peer: Peer, autojump_clock: trio.testing.MockClock) -> None:
    """An agent that does not answer a ping is gone; one that does is there."""

    async def answer_one() -> None:
        asked = await peer.receive()
        assert asked.kind == PING
        await peer.send(PONG, 0, asked.payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_one)
        await peer.channel.ping(2)
    with pytest.raises(MachineLost, match="within 2 s"):
        await peer.channel.ping(2)


async def test_end_of_the_stream_reaches_every_caller(peer: Peer) -> None:
    """When the machine hangs up, all who wait get MachineLost."""

    async def call() -> None:
        with pytest.raises(MachineLost, match="it closed its channel"):
            await peer.channel.call("ping")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.aclose()


CALL = 4
"""The stream of the first call."""

BREACHES: dict[str, tuple[bytes, str]] = {
    "garbage": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "bad magic"),
    "oversize": (frames.HEADER.pack(b"RDA1", DATA, 0, 0, CALL | 2, 1 << 31), "65536 are allowed"),
    "host's own": (frames.pack(HELLO, 0), "never sends"),
    "unknown stream": (frames.pack(DATA, 400 | 2, b"x"), "not open"),
    "unknown answer": (frames.pack(RES, 400, b"{}"), "not open"),
    "data before the answer": (frames.pack(DATA, CALL | 2, b"x"), "no place"),
    "exit before the answer": (frames.pack(EXIT, CALL, b"{}"), "no place"),
    "answer on a data stream": (frames.pack(RES, CALL | 2, b"{}"), "no place"),
    "data on control": (frames.pack(RES, CALL, b"{}", MORE) + frames.pack(DATA, CALL, b"x"), "no place"),
    "end of a call's stream": (frames.pack(RES, CALL, b"{}", MORE) + frames.pack(EOF, CALL | 2), "no place"),
    "two answers": (frames.pack(RES, CALL, b"{}", MORE) * 2, "two answers"),
    "after the end": (frames.pack(RES, CALL, b"{}") * 2, "not open"),
    "bad JSON": (frames.pack(RES, CALL, b"{"), "not a JSON object"),
    "no object": (frames.pack(RES, CALL, b"[1]"), "not a JSON object"),
    "no text": (frames.pack(RES, CALL, b"\xff\xfe{}"), "not a JSON object"),
    "deep JSON": (frames.pack(RES, CALL, b'{"a":' + b"[" * 60_000), "not a JSON object"),
    "empty data": (frames.pack(RES, CALL, b"{}", MORE) + frames.pack(DATA, CALL | 2), "empty frame"),
    "overrun": (
        frames.pack(RES, CALL, b"{}", MORE) + frames.pack(DATA, CALL | 2, b"x" * 65536) * 5,
        "beyond its credit",
    ),
    "credit from nowhere": (frames.pack(WINDOW, CALL | 1, struct.pack("<I", 1)), "never given"),
    "no credit": (frames.pack(WINDOW, CALL | 1, struct.pack("<I", 0)), "never given"),
    "long credit": (frames.pack(WINDOW, CALL | 1, b"\0" * 8), "never given"),
    "pong": (frames.pack(PONG, 0, b"12345678"), "without its PING"),
    "second greeting": (frames.pack(frames.HELLO_ACK, 0, b'{"nonce": "x", "protocol": 2}'), "never sent"),
    "unasked connection": (
        frames.pack(REQ, 0x80000004, b'{"op": "accept", "port": 81}'),
        "none of an agent's",
    ),
    "odd port": (frames.pack(REQ, 0x80000004, b'{"op": "accept", "port": [1]}'), "none of an agent's"),
    "agent's request": (frames.pack(REQ, 0x80000004, b'{"op": "exec", "port": 80}'), "none of an agent's"),
    "connection on a host's stream": (frames.pack(REQ, 8, b'{"op": "accept", "port": 80}'), "not free"),
    "connection twice": (frames.pack(REQ, 0x80000004, b'{"op": "accept", "port": 80}') * 2, "not free"),
}


@pytest.mark.parametrize("case", BREACHES)
async def test_breach_ends_this_machine_with_a_reason(peer: Peer, case: str) -> None:
    """What no agent sends costs the machine, says what it was, and raises nothing but MachineLost."""
    sent, said = BREACHES[case]
    peer.channel._handlers[80] = never
    peer.channel.open()
    waiting = peer.channel.open()
    await peer.send_bytes(sent)
    await peer.channel.lost.wait()
    assert peer.channel.reason.startswith("it broke the protocol: ")
    assert said in peer.channel.reason
    with pytest.raises(MachineLost, match="broke the protocol"):
        await waiting.answer()


async def test_connections_above_the_bound_are_a_breach(peer: Peer) -> None:
    """An agent cannot make the host hold more connections than agreed."""
    async with listening(peer, never):
        for number in range(1, CONNECTIONS + 1):
            await peer.send(REQ, 0x80000000 | number << 2, b'{"op": "accept", "port": 80}')
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.channel.ended
        await peer.send(REQ, 0x80000000 | (CONNECTIONS + 1) << 2, b'{"op": "accept", "port": 80}')
        await peer.channel.lost.wait()
    assert "more than 64 connections" in peer.channel.reason


async def test_agent_that_never_reads_is_lost() -> None:
    """Connections opened and ended without end fill no memory of the host's: what is unread is bounded."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    channel = Channel(ours, nonce=lambda: "n")

    async def at_once(_stream: trio.abc.Stream) -> None:
        pass

    channel._handlers[80] = at_once
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        await theirs.send_all(frames.pack(frames.HELLO_ACK, 0, b'{"nonce": "n", "protocol": 2}'))
        accepted = 0
        while not channel.ended and accepted < UNREAD + 10:
            accepted += 1
            stream = 0x80000000 | accepted << 2
            await theirs.send_all(frames.pack(REQ, stream, b'{"op": "accept", "port": 80}'))
            await trio.testing.wait_all_tasks_blocked()
            if not channel.ended:
                await theirs.send_all(frames.pack(EXIT, stream, b'{"code": 0}'))
    assert channel.reason == "it does not read what it is sent"


async def test_a_connection_behind_the_end_is_nobodys() -> None:
    """What came together with the frame that made the host say too much costs the machine, and no more."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    channel = Channel(ours, nonce=lambda: "n")
    channel._handlers[80] = never
    accept = partial(frames.pack, REQ, payload=b'{"op": "accept", "port": 80}')
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        await theirs.send_all(frames.pack(frames.HELLO_ACK, 0, b'{"nonce": "n", "protocol": 2}'))
        await theirs.send_all(accept(0x80000004))
        await trio.testing.wait_all_tasks_blocked()
        channel._exchanges[0x80000004].drop()
        data = frames.pack(DATA, 0x80000004 | 1 << 1, bytes(8192))
        for _ in range(15):
            await theirs.send_all(data)
        await trio.testing.wait_all_tasks_blocked()
        while len(channel._urgent) < UNREAD:
            channel.send(b"unread")
        await theirs.send_all(data + accept(0x80000008))
    assert channel.reason == "it does not read what it is sent"


async def test_random_frames_never_do_more_than_lose_the_machine() -> None:
    """Thousands of well-formed frames without sense end their own channel and raise nothing."""
    chance = random.Random(7)
    payloads: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: b"{}",
        lambda: b'{"op": "accept", "port": 80}',
        lambda: struct.pack("<I", chance.randrange(1 << 18)),
        lambda: chance.randbytes(chance.randrange(300)),
        lambda: json.dumps({"error": "\x1b[31m" * 9, "errno": chance.randrange(-5, 5000)}).encode(),
    ]
    for _ in range(300):
        ours, theirs = trio.testing.memory_stream_pair()
        channel = Channel(ours, nonce=lambda: "n")
        channel._handlers[80] = swallow
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            await theirs.send_all(frames.pack(frames.HELLO_ACK, 0, b'{"nonce": "n", "protocol": 2}'))
            await channel.connect(5)
            for _ in range(3):
                nursery.start_soon(_expect_anything, channel)
            for _ in range(50):
                kind = chance.choice(sorted(frames.FROM_AGENT - {frames.HELLO_ACK}))
                stream = chance.choice((0, 0x80000000)) | chance.randrange(24)
                await theirs.send_all(
                    frames.pack(kind, stream, chance.choice(payloads)(), chance.randrange(2))
                )
                if channel.ended:
                    break
            channel.close("survived")
        assert channel.reason == "survived" or channel.reason.startswith("it broke the protocol")


async def _expect_anything(channel: Channel) -> None:
    try:
        await channel.call("ping")
    except (MachineLost, OSError, ValueError):
        pass


async def test_control_overtakes_data_to_the_guest() -> None:
    """A signal asked for while a transfer waits for the stream goes out next."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    channel = Channel(ours, nonce=lambda: "n")
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        exchange = channel.open()
        nursery.start_soon(exchange.send, bytes(frames.WINDOW_SIZE))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(_expect_anything, channel)
        await trio.testing.wait_all_tasks_blocked()
        peer = Peer(channel, theirs)
        kinds = [(await peer.receive()).kind for _ in range(9)]
        assert kinds == [DATA, REQ, *[DATA] * 7]
        channel.close("over")


async def test_sender_stops_where_credit_ends(peer: Peer) -> None:
    """No more than a window goes out before the agent returns credit, and then as much as that."""
    exchange = peer.channel.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.send, bytes(frames.WINDOW_SIZE + 1000))
        got = 0
        while got < frames.WINDOW_SIZE:
            got += len((await peer.receive()).payload)
        assert got == frames.WINDOW_SIZE
        await peer.send(WINDOW, exchange.stream | 1, struct.pack("<I", 600))
        assert len((await peer.receive()).payload) == 600
        nursery.cancel_scope.cancel()


async def test_cancelled_call_leaves_the_channel_usable(peer: Peer) -> None:
    """The late answer to a call that was given up is taken and thrown away."""
    with trio.move_on_after(0):
        await peer.channel.call("first")
    exchange = peer.channel.open()
    with trio.CancelScope() as scope:
        scope.cancel()
        await exchange.answer()
    exchange.drop()
    asked = await peer.receive()
    assert asked.kind in (REQ, RESET)
    await peer.send(RES, exchange.stream, b'{"late": 1}')

    async def answer() -> None:
        while (asked := await peer.receive()).kind != REQ or b"second" not in asked.payload:
            pass
        await peer.send(RES, asked.stream, b'{"ok": 1}')

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await peer.channel.call("second") == {"ok": 1}


async def test_handler_that_raises_costs_its_connection_only(peer: Peer) -> None:
    """The connection is reset, the channel lives."""

    async def broken(_stream: trio.abc.Stream) -> None:
        raise RuntimeError("a bug in a handler")

    async with listening(peer, broken):
        await peer.send(REQ, 0x80000004, b'{"op": "accept", "port": 80}')
        assert (await peer.receive())[:3] == (RESET, 0, 0x80000004)
        await peer.send(EXIT, 0x80000004, b"{}")
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.channel.ended


async def test_refused_offer_is_forgotten(peer: Peer) -> None:
    """A port the machine has taken is an OSError, and no connection is served on it."""

    async def refuse() -> None:
        asked = await peer.receive()
        await peer.send(RES, asked.stream, b'{"error": "Address already in use", "errno": 98}')

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)
        with pytest.raises(OSError, match="in use") as caught:
            await peer.channel.listen(80, never)
    assert caught.value.errno == 98
    await peer.send(REQ, 0x80000004, b'{"op": "accept", "port": 80}')
    await peer.channel.lost.wait()


async def test_first_reason_stays(peer: Peer) -> None:
    """Closing again changes nothing, and `on_lost` is called once."""
    calls: list[str] = []
    peer.channel.on_lost = lambda: calls.append(peer.channel.reason)
    peer.channel.close("one")
    peer.channel.close("two")
    assert (peer.channel.reason, calls) == ("one", ["one"])


async def test_killed_agent_is_a_lost_machine(agent_file: Path, tmp_path: Path) -> None:
    """An agent that dies in the middle of a call is told apart from one that refuses."""
    process, ours = start_agent(agent_file, tmp_path)
    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        await channel.connect(10)
        process.send_signal(signal.SIGSTOP)
        waiting: Awaitable[None] = channel.lost.wait()
        process.kill()
        with pytest.raises(MachineLost, match=r"closed its channel|channel broke"):
            await channel.call("ping")
        await waiting
    process.wait()


async def test_agent_that_lost_its_host_is_greeted_again(peer: Peer) -> None:
    """It is offered anew what it was offered, and what was under way is over."""
    async with listening(peer, never):
        await peer.send(REQ, frames.GUEST | 4, json.dumps({"op": "accept", "port": 80}).encode())
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.channel.quiet

        async def answer() -> None:
            while (asked := await peer.receive()).kind != HELLO:
                pass
            nonce = json.loads(asked.payload)["nonce"]
            fields = {"nonce": nonce, "protocol": frames.VERSION, "generation": 1, "pid": 1}
            await peer.stream.send_all(b"rest of a frame")
            await peer.send(frames.HELLO_ACK, 0, json.dumps(fields).encode())
            asked = await peer.receive()
            assert json.loads(asked.payload) == {"op": "listen", "port": 80}
            await peer.send(RES, asked.stream, b"{}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await peer.channel.connect_again(5)
        assert peer.channel.quiet


@pytest.mark.parametrize("refusal", [{"error": "no"}, {"error": "it is taken", "errno": 98}])
async def test_agent_that_takes_its_ports_back_is_lost(peer: Peer, refusal: dict[str, object]) -> None:
    """A machine that would go on without what it was offered, its way out for one, does not go on."""
    async with listening(peer, never):

        async def answer() -> None:
            nonce = json.loads((await peer.receive()).payload)["nonce"]
            fields = {"nonce": nonce, "protocol": frames.VERSION}
            await peer.send(frames.HELLO_ACK, 0, json.dumps(fields).encode())
            asked = await peer.receive()
            await peer.send(RES, asked.stream, json.dumps(refusal).encode())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(MachineLost, match="its ports could not be offered again"):
                await peer.channel.connect_again(5)
    assert peer.channel.ended
