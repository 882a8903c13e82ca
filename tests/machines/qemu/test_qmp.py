"""QMP against a QEMU that a test plays: interleaving, descriptors, refusals, silence and garbage."""

import json
import socket

import pytest
import trio

from runnerd.machines.qemu import qmp
from runnerd.machines.qemu.qmp import Qmp, QmpError

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}\r\n'
)


class Played:
    """QEMU's end of a monitor."""

    def __init__(self, theirs: socket.socket) -> None:
        self.socket = trio.socket.from_stdlib_socket(theirs)
        self.descriptors: list[int] = []
        self.buffer = b""

    async def command(self) -> dict:
        """The next command, with the descriptors that came along kept."""
        while b"\n" not in self.buffer:
            data, ancillary, _, _ = await self.socket.recvmsg(65536, socket.CMSG_SPACE(16))
            assert data, "the monitor was closed"
            for _, kind, rights in ancillary:
                assert kind == socket.SCM_RIGHTS
                self.descriptors += [
                    int.from_bytes(rights[n : n + 4], "little") for n in range(0, len(rights), 4)
                ]
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    async def say(self, *messages: dict) -> None:
        """Send messages in one piece."""
        await self.socket.send(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))

    async def answer(self, name: str, *before: dict, **result) -> dict:
        """Expect a command and answer it, after other messages."""
        command = await self.command()
        assert command["execute"] == name
        await self.say(*before, {"return": result, "id": command["id"]})
        return command

    async def greet(self) -> None:
        """Greet and leave negotiation."""
        await self.socket.send(GREETING)
        await self.answer("qmp_capabilities")


@pytest.fixture
async def monitor():
    """A monitor, and the QEMU at its other end."""
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        qemu = Played(theirs)
        monitor = Qmp(ours)
        nursery.start_soon(monitor.run)
        yield monitor, qemu
        monitor.close()
        qemu.socket.close()


async def both(first, second):
    """Run QEMU's part beside ours; what ours returned or raised."""
    failed = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        try:
            return await first
        except QmpError as error:
            failed = error
    raise failed


def event(name, **data):
    """An event as QEMU sends it."""
    return {"timestamp": {"seconds": 1, "microseconds": 2}, "event": name, "data": data}


async def test_events_between_command_and_answer_are_kept(monitor):
    """An answer is found among events, which are kept in order and heard as they come."""
    ours, qemu = monitor
    heard = []
    ours.on_event = lambda event: heard.append(event.name)
    await both(ours.negotiate(deadline=5), qemu.greet)
    result = await both(
        ours.command("query-status"),
        lambda: qemu.answer(
            "query-status", event("STOP"), event("MIGRATION", status="setup"), status="paused"
        ),
    )
    assert result == {"status": "paused"}
    assert heard == ["STOP", "MIGRATION"]
    assert [each.data for each in ours.events] == [{}, {"status": "setup"}]


async def test_a_refusal_carries_the_words_of_qemu(monitor):
    """An error becomes QmpError with the command and QEMU's description."""
    ours, qemu = monitor
    await both(ours.negotiate(deadline=5), qemu.greet)

    async def refuse():
        command = await qemu.command()
        error = {"class": "GenericError", "desc": "The command cont has failed"}
        await qemu.say({"error": error, "id": command["id"]})

    with pytest.raises(QmpError, match=r"^cont: The command cont has failed$"):
        await both(ours.command("cont"), refuse)


async def test_a_late_answer_is_not_taken_for_the_next(monitor):
    """After a deadline the answer to the old command is dropped; the next gets its own."""
    ours, qemu = monitor
    await both(ours.negotiate(deadline=5), qemu.greet)
    with pytest.raises(QmpError, match=r"stop: no answer within 0.05 s"):
        await ours.command("stop", deadline=0.05)

    async def late():
        old, new = await qemu.command(), await qemu.command()
        await qemu.say({"return": {"old": 1}, "id": old["id"]}, {"return": {"new": 1}, "id": new["id"]})

    assert await both(ours.command("query-status"), late) == {"new": 1}


async def test_silence_and_an_early_end_are_told_apart(monitor):
    """No greeting in time and a closed monitor are two sentences."""
    ours, qemu = monitor
    with pytest.raises(QmpError, match=r"did not greet within 0\.05 s"):
        await ours.negotiate(deadline=0.05)
    qemu.socket.close()
    with pytest.raises(QmpError, match="QEMU closed the monitor"):
        await ours.negotiate(deadline=5)
    with pytest.raises(QmpError):
        await ours.command("cont")


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"\xff\xfe{\n", "not JSON"),
        (b"[1]\n", "not a message"),
        (b"x" * (qmp.LINE_LIMIT + 2), "more than"),
        (b"[" * 200_000 + b"\n", "not"),
    ],
)
async def test_garbage_ends_the_monitor_and_nothing_else(monitor, garbage, why):
    """What is no QMP ends the connection with a reason; commands fail, nothing is raised in the reader."""
    ours, qemu = monitor

    async def spoil():
        try:
            await trio.SocketStream(qemu.socket).send_all(garbage)
        except trio.BrokenResourceError:
            pass

    with pytest.raises(QmpError, match=why):
        await both(ours.negotiate(deadline=5), spoil)


async def test_what_was_said_last_can_be_taken_without_waiting(monitor):
    """`drain` takes events that have arrived, and does not mind when there are none."""
    ours, theirs = socket.socketpair()
    alone = Qmp(ours)
    alone.drain()
    theirs.send(json.dumps(event("GUEST_PANICKED", action="poweroff")).encode() + b"\r\n")
    alone.drain()
    assert [each.name for each in alone.events] == ["GUEST_PANICKED"]
    alone.close()
    alone.drain()
    theirs.close()
