"""Terminals in a real agent, without a machine around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from runnerd.machines.channel import Channel
from runnerd.machines.driver import Command, Exit, Window
from runnerd.machines.shell import Session


class Person:
    """Types what it is told, and remembers the screen."""

    def __init__(self) -> None:
        self.window = Window(rows=30, columns=100)
        self.screen = b""
        self._typed, self._typing = trio.open_memory_channel[bytes | Window](10)
        self._changed = trio.Event()

    async def keys(self) -> bytes | Window:
        return await self._typing.receive()

    async def show(self, data: bytes) -> None:
        self.screen += data
        self._changed.set()
        self._changed = trio.Event()

    async def type(self, keys: bytes | Window) -> None:
        await self._typed.send(keys)

    async def wait_for(self, text: bytes) -> None:
        with trio.fail_after(20):
            while text not in self.screen:
                await self._changed.wait()


def bash(script: str) -> Command:
    return Command(argv=("bash", "--norc", "-c", script), env={"PATH": os.environ["PATH"], "TERM": "dumb"})


async def run(channel: Channel, person: Person, script: str, ends: list[Exit]) -> None:
    ends.append(await Session(channel, bash(script), person).run())


async def test_a_terminal_is_one(agent_channel: Channel) -> None:
    """The process has a terminal that controls it, with the person's size, which may change."""
    person, ends = Person(), []
    script = "trap 'stty size; exit 7' WINCH; test -t 0 && tty; stty size; while :; do sleep 0.05; done"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, agent_channel, person, script, ends)
        await person.wait_for(b"30 100")
        await person.type(Window(rows=40, columns=120))
        await person.wait_for(b"40 120")
    assert b"/dev/pts/" in person.screen
    assert ends == [Exit(code=7)]


async def test_keys_are_keys(agent_channel: Channel, nursery: trio.Nursery) -> None:
    """What is typed is echoed and read; the interrupt key interrupts and the end key ends."""
    person, ends = Person(), []
    script = "trap 'echo interrupted' INT; read a; echo \"got $a\"; cat; echo over"
    nursery.start_soon(run, agent_channel, person, script, ends)
    await person.type(b"hello\n")
    await person.wait_for(b"got hello")
    await person.type(b"line\n\x04")
    await person.wait_for(b"over")
    assert person.screen.count(b"line") == 2  # the echo, and what cat read
    second = Person()
    nursery.start_soon(
        run, agent_channel, second, "trap 'echo hurt; exit 3' INT; echo up; sleep 60 & wait", ends
    )
    await second.wait_for(b"up")
    await second.type(b"\x03")
    await second.wait_for(b"hurt")


async def test_person_that_goes_hangs_up(agent_channel: Channel) -> None:
    """When nobody is at the terminal any more the process hears of it and ends."""
    person, ends = Person(), []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, agent_channel, person, "echo up; while :; do sleep 0.05; done", ends)
            await person.wait_for(b"up")
            await person.type(b"")
    assert ends == [Exit(signal=1)]


async def test_shell_that_is_not_there(agent_channel: Channel) -> None:
    """What cannot be started is an OSError with a sentence, in no group."""
    with pytest.raises(OSError, match="cannot run /nonesuch"):
        await Session(agent_channel, Command(argv=("/nonesuch",)), Person()).run()


async def test_much_on_the_screen_is_held_back(agent_channel: Channel, tmp_path: Path) -> None:
    """Output beyond the credit waits for the person's screen, and is whole."""
    person = Person()
    ended = await Session(agent_channel, bash("stty -onlcr; seq 100000"), person).run()
    assert ended.success
    assert person.screen == b"".join(b"%d\n" % number for number in range(1, 100_001))
