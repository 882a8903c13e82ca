"""Moving a machine's state, in the words that each version of QEMU was recorded to take and to say.

`conversations/` holds what `record.py` wrote down of the driver and the QEMU that its folder is named after.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest
import trio

from runnerd.machines.qemu import migration
from runnerd.machines.qemu.qmp import Event, Qmp, QmpError

from .stand_in import recorded

STATE = bytes(range(256)) * 3000
"""More than a pipe holds at once."""


class Player:
    """QEMU's side of a conversation: fails where it is told anything else."""

    def __init__(self, theirs: socket.socket, lines: list[dict[str, Any]], state: bytes = b"") -> None:
        self.socket = trio.socket.from_stdlib_socket(theirs)
        self.lines = lines
        self.state = state
        """What it writes as its state, or was given as one."""
        self.descriptor = -1

    async def play(self) -> None:
        """Say and hear everything, in order; an answer has the id of the command it answers."""
        buffer, number, told = b"", 0, ""
        for line in self.lines:
            if (message := line.get("from")) is not None:
                if "id" in message:
                    message = {**message, "id": number}
                if message.get("event") == "MIGRATION" and message["data"]["status"] == "completed":
                    await trio.to_thread.run_sync(self._move, told)
                await self.socket.send(json.dumps(message).encode() + b"\r\n")
                continue
            while b"\n" not in buffer:
                data, rights, _, _ = await self.socket.recvmsg(65536, socket.CMSG_SPACE(4))
                assert data, "the monitor was closed"
                for _, _, content in rights:
                    self.descriptor = int.from_bytes(content[:4], "little")
                buffer += data
            heard, _, buffer = buffer.partition(b"\n")
            command = json.loads(heard)
            number = command.pop("id")
            assert command == {key: value for key, value in line["to"].items() if key != "id"}
            told = command["execute"] if command["execute"].startswith("migrate") else told

    def _move(self, told: str) -> None:
        if told == "migrate":
            rest = memoryview(self.state)
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        else:
            while data := os.read(self.descriptor, 65536):
                self.state += data
        os.close(self.descriptor)


async def conversation(
    lines: list[dict[str, Any]], *, channels: bool, load: bytes | None, state: bytes = b""
):
    """Have the driver's part of a conversation; what was saved, and what was loaded."""
    ours, theirs = socket.socketpair()
    monitor, player = Qmp(ours, channels=channels), Player(theirs, lines, state)
    saved = b""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor.run)
            nursery.start_soon(player.play)
            await monitor.negotiate(deadline=5)
            if load is None:
                await monitor.command("stop")
                saved = await migration.save(monitor)
            else:
                await migration.load(monitor, load)
                await monitor.command("cont")
            monitor.close()
    player.socket.close()
    return saved, player.state


@pytest.mark.parametrize(("version", "channels"), [("7.2.22", False), ("10.0.13", True), ("11.1.3", True)])
async def test_a_state_is_saved_and_loaded(version, channels):
    """The driver tells each version exactly this; it has all that QEMU writes, and QEMU all that it has."""
    saved, _ = await conversation(recorded(version, "freeze"), channels=channels, load=None, state=STATE)
    assert saved == STATE
    for scene in ("clone", "restore"):
        _, loaded = await conversation(recorded(version, scene), channels=channels, load=STATE)
        assert loaded == STATE


class Refusing:
    """A monitor whose QEMU takes the descriptor, keeps it open, and fails."""

    channels = False

    def __init__(self, status: str = "failed") -> None:
        self.kept = -1
        self.status = status

    async def command(self, name: str, *_: Any, descriptor: int | None = None, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if descriptor is not None:
            self.kept = os.dup(descriptor)
        if name == "query-migrate":
            return {"status": "failed", "error-desc": "Unknown savevm section 'slirp'"}
        return {"status": "postmigrate"}

    def forget_events(self) -> None:
        """None were kept."""

    async def wait(self, wanted: Any, *, deadline: float) -> Any:
        await trio.lowlevel.checkpoint()

        class End:
            name, data = "MIGRATION", {"status": self.status}

        return End


@pytest.mark.parametrize("incoming", [True, False])
async def test_a_failed_move_says_why_and_waits_for_nobody(incoming):
    """The reason is asked for and told, although QEMU lives on and keeps its end of the pipe."""
    before = len(os.listdir("/proc/self/fd"))
    monitor: Any = Refusing()
    with pytest.raises(QmpError, match=r"Unknown savevm section 'slirp'"), trio.fail_after(30):
        await (migration.load(monitor, STATE) if incoming else migration.save(monitor))
    os.close(monitor.kept)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_state_without_an_end_is_none():
    """A QEMU that says it is done and does not let go of the pipe has saved nothing that can be trusted."""
    monitor: Any = Refusing("completed")
    with pytest.raises(QmpError, match="did not end the machine's state"), trio.fail_after(30):
        await migration.save(monitor, deadline=0.05)
    os.close(monitor.kept)


async def test_a_state_without_bound_is_refused(monkeypatch):
    """What a QEMU writes without end is not kept."""
    monkeypatch.setattr(migration, "STATE_LIMIT", 1000)

    class Endless(Refusing):
        async def wait(self, wanted: Any, *, deadline: float) -> Any:
            os.write(self.kept, bytes(5000))
            os.close(self.kept)
            return await super().wait(wanted, deadline=deadline)

    monitor: Any = Endless("completed")
    with pytest.raises(QmpError, match="did not end the machine's state"), trio.fail_after(30):
        await migration.save(monitor)


class Answers:
    """A monitor whose every migration ends as it is told, and whose every answer is this."""

    channels = True

    def __init__(self, status: str, answer: object) -> None:
        self.status = status
        self.answer = answer

    async def command(self, name: str, *_: object, **__: object) -> object:
        await trio.lowlevel.checkpoint()
        return self.answer

    def forget_events(self) -> None:
        pass

    async def wait(self, *_: object, **__: object) -> Event:
        await trio.lowlevel.checkpoint()
        return Event(name="MIGRATION", data={"status": self.status})


@pytest.mark.parametrize("answer", [None, [], "postmigrate", 7])
async def test_answers_that_say_nothing_are_refused(answer: object) -> None:
    """A QEMU that a machine has taken over ends that machine with what it says, and nothing else."""
    with pytest.raises(QmpError, match="query-migrate: QEMU's answer says nothing"):
        await migration.load(Answers("failed", answer), STATE)
    with pytest.raises(QmpError, match="query-status: QEMU's answer says nothing"):
        await migration.save(Answers("completed", answer))
