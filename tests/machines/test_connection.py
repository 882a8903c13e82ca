"""Connections from inside a machine as streams on the host."""

from __future__ import annotations

import os
import socket
import sys

import pytest
import trio
import trio.testing

from runnerd.machines import frames
from runnerd.machines.channel import Channel
from runnerd.machines.connection import GuestConnection
from runnerd.machines.driver import Command, Exit
from runnerd.machines.execution import Execution

from .conftest import Peer

CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(b"x" * int(sys.argv[2]))
connection.shutdown(socket.SHUT_WR)
count = 0
while data := connection.recv(65536):
    count += len(data)
print(count)
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def client(channel: Channel, port: int, size: int) -> int:
    """Run a client in the machine that sends `size` bytes and says how many it got."""
    said = bytearray()

    async def hear(kind: str, data: bytes) -> None:
        assert kind == "stdout", data
        said.extend(data)

    command = Command(argv=(sys.executable, "-S", "-c", CLIENT, str(port), str(size)), env=dict(os.environ))
    assert await Execution(channel, command, hear).run() == Exit(code=0)
    return int(said)


async def test_round_trip_of_megabytes(agent_channel: Channel, port: int) -> None:
    """Far more than a window goes both ways, and each side sees the other's end."""
    heard = 0

    async def echo(stream: trio.abc.Stream) -> None:
        nonlocal heard
        while data := await stream.receive_some():
            heard += len(data)
            await stream.send_all(data)

    await agent_channel.listen(port, echo)
    assert await client(agent_channel, port, 3_000_000) == 3_000_000
    assert heard == 3_000_000


async def test_what_was_sent_before_the_close_arrives(agent_channel: Channel, port: int) -> None:
    """A handler that answers and returns does not cut off its answer, whether or not it read the question."""

    async def answer(stream: trio.abc.Stream) -> None:
        await stream.send_all(bytes(200_000))

    await agent_channel.listen(port, answer)
    assert await client(agent_channel, port, 10) == 200_000


async def test_many_connections_at_once(agent_channel: Channel, port: int) -> None:
    """More clients than may be connected at once are all served in the end."""

    async def echo(stream: trio.abc.Stream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)

    script = (
        "import socket, sys\n"
        "all = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(100)]\n"
        "for one in all[::-1]: one.sendall(b'ask'); one.shutdown(1)\n"
        "print(sum(len(one.makefile('rb').read()) for one in all))"
    )
    said = bytearray()

    async def hear(kind: str, data: bytes) -> None:
        said.extend(data)

    await agent_channel.listen(port, echo)
    command = Command(argv=(sys.executable, "-S", "-c", script, str(port)), env=dict(os.environ))
    assert await Execution(agent_channel, command, hear).run() == Exit(code=0)
    assert said == b"300\n"


async def test_reads_are_of_the_size_asked_for(agent_channel: Channel, port: int) -> None:
    """`receive_some` gives no more than asked, and b"" again and again at the end."""
    pieces: list[int] = []

    async def sip(stream: trio.abc.Stream) -> None:
        while data := await stream.receive_some(7):
            pieces.append(len(data))
        assert await stream.receive_some() == b""
        with pytest.raises(ValueError, match="at least 1"):
            await stream.receive_some(0)

    await agent_channel.listen(port, sip)
    await client(agent_channel, port, 20)
    assert pieces == [7, 7, 6]


async def test_closed_connection_is_closed(peer: Peer) -> None:
    """After a close or an end of sending, trio's errors come, and closing again is fine."""
    seen: list[str] = []

    async def handler(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.abc.HalfCloseableStream)
        await stream.send_eof()
        await stream.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        await stream.wait_send_all_might_not_block()
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_eof()
        seen.append("done")

    peer.channel._handlers[80] = handler
    await peer.send(frames.REQ, 0x80000004, b'{"op": "accept", "port": 80}')
    await trio.testing.wait_all_tasks_blocked()
    assert seen == ["done"]
    assert not peer.channel.ended


async def test_cut_off_connection_is_broken(peer: Peer) -> None:
    """An end without an end of data is a BrokenResourceError in both directions."""
    seen: list[str] = []

    async def handler(stream: trio.abc.Stream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        seen.append("broken")

    peer.channel._handlers[80] = handler
    await peer.send(frames.REQ, 0x80000004, b'{"op": "accept", "port": 80}')
    await trio.testing.wait_all_tasks_blocked()
    await peer.send(frames.EXIT, 0x80000004, b"{}")
    await trio.testing.wait_all_tasks_blocked()
    assert seen == ["broken"]


async def test_lost_machine_breaks_its_connections(peer: Peer) -> None:
    """Who waits hears of it, no handler outlives the channel, and a stream that does is a broken one."""
    ended: list[str] = []

    async def handler(stream: trio.abc.Stream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        ended.append("broken")
        await trio.sleep_forever()

    peer.channel._handlers[80] = handler
    await peer.send(frames.REQ, 0x80000004, b'{"op": "accept", "port": 80}')
    connection = GuestConnection(peer.channel.open())
    await trio.testing.wait_all_tasks_blocked()
    peer.channel.close("gone")
    await trio.testing.wait_all_tasks_blocked()
    assert ended == ["broken"]
    with pytest.raises(trio.BrokenResourceError):
        await connection.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await connection.send_all(bytes(frames.WINDOW_SIZE * 2))
