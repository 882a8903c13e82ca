"""One process in a remote machine: output as it comes, its status, and its end."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from runnerd.machines.driver import Command, Exit, Machine, MachineLost
from runnerd.machines.execution import Rung

from .conftest import leased

Ready = Callable[[], Awaitable[Machine]]
ENV = {"PATH": os.environ["PATH"]}


class Heard:
    """Remembers what a process said, and when there was something."""

    def __init__(self) -> None:
        self.said = {"stdout": b"", "stderr": b""}
        self.something = trio.Event()

    async def __call__(self, stream: str, data: bytes) -> None:
        self.said[stream] += data
        self.something.set()


def command(script: str, **options: Any) -> Command:
    return Command(argv=("bash", "-c", script), env=ENV, **options)


async def test_output_and_status(ready: Ready) -> None:
    """Both streams arrive whole and apart, with the standard input and the status as they were."""
    machine, heard = await ready(), Heard()
    ended = await machine.exec(command("cat; echo err >&2; exit 9", stdin=b"in\x00\xff"), heard)
    assert (ended, heard.said) == (Exit(code=9), {"stdout": b"in\x00\xff", "stderr": b"err\n"})


async def test_output_comes_while_it_runs(ready: Ready) -> None:
    """A line is delivered before the process has ended."""
    machine, heard = await ready(), Heard()
    async with trio.open_nursery() as nursery:
        script = f"echo first; until [ -e {machine.paths.home}/go ]; do sleep 0.05; done; echo second"
        nursery.start_soon(machine.exec, command(script), heard)
        with trio.fail_after(30):
            await heard.something.wait()
        assert heard.said["stdout"] == b"first\n"
        await machine.put(f"{machine.paths.home}/go", b"")
    assert heard.said["stdout"] == b"first\nsecond\n"


async def test_large_output_is_whole(ready: Ready) -> None:
    """Output of several answers is delivered in order to its end."""
    machine, heard = await ready(), Heard()
    await machine.exec(command("seq 300000"), heard)
    assert heard.said["stdout"] == b"".join(b"%d\n" % number for number in range(1, 300001))


async def test_what_is_left_behind_holds_nobody_up(ready: Ready) -> None:
    """A process that stays in the background keeps the output open, and the command has ended."""
    machine, heard = await ready(), Heard()
    with trio.fail_after(30):
        assert (await machine.exec(command("sleep 60 & echo done"), heard)).success
    assert heard.said["stdout"] == b"done\n"


async def test_lost_answers_start_nothing_twice(ready: Ready, fake: Any) -> None:
    """The service loses answers of its own; the process runs once and its output is delivered once."""
    machine, heard = await ready(), Heard()
    fake.fault, fake.faults["POST /api/llm/execute"] = "drop", 3
    ended = await machine.exec(command(f"echo x >>{machine.paths.home}/count; echo said"), heard)
    assert (ended, heard.said["stdout"]) == (Exit(code=0), b"said\n")
    assert await machine.get(f"{machine.paths.home}/count", limit=10) == b"x\n"


async def test_status_that_nobody_knows_is_none(ready: Ready) -> None:
    """When the process that waits for it was killed there is no status, and so no success."""
    machine, heard = await ready(), Heard()
    ended = await machine.exec(command("kill -9 $PPID; exit 0"), heard)
    assert ended == Exit()
    assert not ended.success


async def test_forged_status_is_none(ready: Ready) -> None:
    """What is no number in the place of a status is not believed."""
    machine, heard = await ready(), Heard()
    script = f"""
        until ls {machine.paths.home}/.runnerd/*/*/pid; do sleep 0.05; done
        for pid in {machine.paths.home}/.runnerd/*/*/pid; do echo yes >"${{pid%pid}}code"; done
        sleep 60
    """
    with trio.fail_after(30):
        assert await machine.exec(command(script), heard) == Exit()


async def test_cancelled_command_hears_the_ladder(ready: Ready) -> None:
    """The first signal reaches the process, its last words arrive, and then Cancelled leaves."""
    machine, heard = await ready(), Heard()
    script = "trap 'echo stopped; exit 1' INT; echo ready; while :; do sleep 0.05; done"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.exec, command(script), heard)
            await heard.something.wait()
            scope.cancel()
    assert scope.cancelled_caught
    assert heard.said["stdout"] == b"ready\nstopped\n"


async def test_deaf_command_is_killed(opened: Callable[..., Any]) -> None:
    """What ignores the signals is killed at the end of the ladder."""
    heard, said = Heard(), Heard()
    script = "trap '' INT TERM; echo $$; while :; do sleep 0.05; done"
    async with opened(ladder=(Rung(2, 1.0), Rung(15, 1.0), Rung(9, 60.0))) as driver:
        machine = await leased(driver)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(machine.exec, command(script), heard)
                await heard.something.wait()
                scope.cancel()
        await machine.exec(command(f"kill -0 {int(heard.said['stdout'])} 2>/dev/null || echo dead"), said)
    assert said.said["stdout"] in (b"dead\n", b"")  # a zombie where nobody reaps: nothing runs it any more
    stat = f"/proc/{int(heard.said['stdout'])}/stat"
    assert not await trio.Path(stat).exists() or ") Z " in await trio.Path(stat).read_text()


async def test_signal_is_passed_on(ready: Ready) -> None:
    """A signal to the machine goes to what runs in it."""
    machine, heard = await ready(), Heard()
    ends: list[Exit] = []

    async def run() -> None:
        script = "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"
        ends.append(await machine.exec(command(script), heard))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await heard.something.wait()
        await machine.signal(10)
    assert ends == [Exit(code=5)]


async def test_program_that_is_not_there(ready: Ready) -> None:
    """What cannot be started is an OSError with a sentence."""
    machine = await ready()
    with pytest.raises(OSError, match="nonesuch is not there"):
        await machine.exec(Command(argv=("nonesuch",), env=ENV), Heard())
    with pytest.raises(OSError, match="No such file"):
        await machine.exec(Command(argv=("true",), env=ENV, cwd="/nonesuch"), Heard())


async def test_failing_listener_ends_the_process(ready: Ready) -> None:
    """When the output cannot be taken the process is killed and the fault reaches the caller."""
    machine = await ready()

    async def refuse(stream: str, data: bytes) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError), trio.fail_after(30):
        await machine.exec(command("echo x; sleep 60"), refuse)


async def test_machine_that_goes_is_lost(ready: Ready, fake: Any) -> None:
    """A command whose machine the service has ended is lost, not failed."""
    machine, heard = await ready(), Heard()
    caught: list[MachineLost] = []

    async def run() -> None:
        try:
            await machine.exec(command("echo ready; sleep 60"), heard)
        except MachineLost as lost:
            caught.append(lost)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await heard.something.wait()
        await trio.to_thread.run_sync(fake.end, machine.vm)  # type: ignore[attr-defined]
    assert len(caught) == 1
    assert machine.lost.is_set()
