"""`runnerd shell`, as a process on a real terminal or in a pipe, against a control API on a real socket."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from runnerd.model import Outcome, Phase, RunRecord
from runnerd.web import control, guard, listeners
from runnerd.web.control import RunView
from runnerd.web.terminal import Person, Screen, Talk

from .test_runs import a_job, a_run

SECONDS = 120.0


DEAF = """
import signal, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
from runnerd.__main__ import main
sys.exit(main())
"""
"""The command, whose waiting no signal interrupts: another thread gets it, as if it came just before."""


class Shells:
    """An API with one run, whose shells do as `talk` does."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, str | None, Screen]] = []
        self.talk: Talk = self.echo
        self.error: Exception | None = None
        self.windows: list[tuple[int, int]] = []
        self.typed = b""
        self.over = 0

    async def run(self, run: int) -> RunView:
        await trio.lowlevel.checkpoint()
        record: RunRecord = a_run(run, Outcome.FAILURE)
        assert record.phase is Phase.DONE
        return RunView(run=record, jobs=(a_job(1, "build"), a_job(2, "test (a)")))

    async def shell(self, run: int, job: int, at: str | None, screen: Screen) -> Talk:
        await trio.lowlevel.checkpoint()
        self.asked.append((run, job, at, screen))
        if self.error:
            raise self.error
        return self._talk

    async def _talk(self, person: Person) -> None:
        try:
            await self.talk(person)
        finally:
            self.over += 1

    async def echo(self, person: Person) -> None:
        """Show what is typed, until the input ends or a `q`; the status is 7."""
        await person.say("a copy\x1b[2J of it")
        await person.show(b"ready\r\n")
        while typed := await person.typed():
            if isinstance(typed, tuple):
                self.windows.append(typed)
                await person.show(b"%dx%d." % typed)
                continue
            self.typed += typed
            await person.show(typed)
            if b"q" in typed:
                break
        await person.end(7)


class Command:
    """The command as a process: on a terminal of its own, unless it is given pipes."""

    def __init__(self, socket: Path, *arguments: str, pipes: bool = False, deaf: bool = False) -> None:
        self.master, self.slave = os.openpty()
        self.resize(30, 90)
        self.before = termios.tcgetattr(self.slave)
        self.shown = b""
        ends: dict[str, Any] = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        if pipes:
            ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        program = ("-c", DEAF) if deaf else ("-m", "runnerd")
        argv = [sys.executable, *program, "shell", "7", *arguments, "--socket", str(socket)]
        environ = {"TERM": "xterm-256color", "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(argv, env=environ, start_new_session=True, **ends)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: bytes) -> None:
        """Read the terminal until it has shown a text."""
        end = time.monotonic() + SECONDS
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} was not shown: {self.shown!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.shown += os.read(self.master, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def end(self) -> int:
        """Wait for the process, and read what it left on the terminal."""
        status = self.process.wait(SECONDS)
        while select.select([self.master], [], [], 0)[0]:
            self.shown += os.read(self.master, 4096)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
async def shells(tmp_path: Path, nursery: trio.Nursery) -> Any:
    shells, stop = Shells(), trio.Event()
    shells.stop = stop  # type: ignore[attr-defined]
    app = control.app(shells)  # type: ignore[arg-type]
    at = listeners.open_unix(tmp_path / "control.sock")
    await nursery.start(partial(guard.serve, app, [at], stop=stop, grace=0.2))
    yield shells
    stop.set()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def start(*arguments: str, **how: bool) -> Command:
        commands.append(Command(tmp_path / "control.sock", *arguments, **how))
        return commands[-1]

    yield start
    for each in commands:
        each.close()


async def thread(function: Callable[..., Any], *arguments: Any) -> Any:
    with trio.fail_after(2 * SECONDS):
        return await trio.to_thread.run_sync(partial(function, *arguments), abandon_on_cancel=True)


async def test_a_terminal_is_passed_on(shells: Shells, command: Callable[..., Command]) -> None:
    """Every key goes to the machine, the window's changes as well; the status is the shell's."""
    process = command("--job", "test", "--at", "unit")
    await thread(process.until, b"ready")
    assert process.raw
    process.type(b"\x03\x1a\x04")  # interrupt, suspend and end are keys like others
    await thread(process.until, b"\x03\x1a\x04")
    process.resize(40, 132)
    process.process.send_signal(signal.SIGWINCH)
    await thread(process.until, b"40x132.")
    process.type(b"q")
    assert await thread(process.end) == 7
    assert process.restored
    assert shells.asked == [(7, 2, "unit", Screen(rows=30, columns=90, term="xterm-256color"))]
    assert shells.typed == b"\x03\x1a\x04q"
    assert b"runnerd: a copy of it\r\n" in process.shown  # without what would move the cursor


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_signal_puts_the_terminal_back(
    shells: Shells, command: Callable[..., Command], number: signal.Signals, eventually: Any
) -> None:
    """The command ends as by the signal, and the daemon sees the person go."""
    process = command("--job", "build")
    await thread(process.until, b"ready")
    assert process.raw
    process.process.send_signal(number)
    assert await thread(process.end) == 128 + number
    assert process.restored
    await eventually(lambda: shells.over == 1)


async def test_a_signal_before_the_waiting_is_heard(
    shells: Shells, command: Callable[..., Command], eventually: Any
) -> None:
    """It does not wait for a key or for the machine, and the terminal is put back."""
    process = command("--job", "build", deaf=True)
    await thread(process.until, b"ready")
    process.process.send_signal(signal.SIGTERM)
    assert await thread(process.end) == 128 + signal.SIGTERM
    assert process.restored
    await eventually(lambda: shells.over == 1)


async def test_a_stop_and_go_makes_it_raw_again(shells: Shells, command: Callable[..., Command]) -> None:
    """Somebody else may have had the terminal meanwhile, and changed its window."""
    process = command("--job", "build")
    await thread(process.until, b"ready")
    termios.tcsetattr(process.slave, termios.TCSANOW, process.before)
    process.process.send_signal(signal.SIGCONT)
    await thread(process.until, b"30x90.")
    assert process.raw
    process.type(b"q")
    assert await thread(process.end) == 7
    assert process.restored


async def test_there_is_a_way_out(shells: Shells, command: Callable[..., Command], eventually: Any) -> None:
    """Ctrl-] three times in a row leaves a machine that does nothing any more; twice is two keys."""

    async def hangs(person: Person) -> None:
        await person.show(b"ready")
        await person.typed()
        await person.show(b"stuck")
        await trio.sleep_forever()

    shells.talk = hangs
    process = command("--job", "build")
    await thread(process.until, b"ready")
    process.type(b"\x1d\x1dx\x1d")
    await thread(process.until, b"stuck")
    assert process.process.poll() is None
    process.type(b"y\x1d\x1d\x1d")
    assert await thread(process.end) == 130
    assert process.restored
    await eventually(lambda: shells.over == 1)


async def test_a_shell_without_a_status_is_told(shells: Shells, command: Callable[..., Command]) -> None:
    """The daemon's sentence is printed once the terminal is as it was, and no machine is status 5."""

    async def fails(person: Person) -> None:
        await person.show(b"ready")
        await person.typed()
        await person.fail("machine m-1: its kernel panicked")

    shells.talk = fails
    process = command("--job", "build")
    await thread(process.until, b"ready")
    process.type(b"x")
    assert await thread(process.end) == 5
    assert process.restored
    assert process.shown.endswith(b"runnerd: machine m-1: its kernel panicked\r\n")


async def test_a_daemon_that_goes_is_told(shells: Shells, command: Callable[..., Command]) -> None:
    """That is status 3, as everywhere."""

    async def stays(person: Person) -> None:
        await person.show(b"ready")
        await trio.sleep_forever()

    shells.talk = stays
    process = command("--job", "build")
    await thread(process.until, b"ready")
    shells.stop.set()  # type: ignore[attr-defined]
    assert await thread(process.end) == 3
    assert process.restored
    assert b"ended the connection\r\n" in process.shown


async def test_without_a_terminal_it_is_a_pipe(shells: Shells, command: Callable[..., Command]) -> None:
    """Standard input goes in, however large; the machine's bytes alone come out, notes on standard error."""
    script = b"".join(b"line %d\n" % number for number in range(50_000))
    process = command("--job", "1", pipes=True)
    out, err = await thread(process.process.communicate, script)
    assert process.process.returncode == 7
    assert out == b"ready\r\n" + script
    assert err == b"runnerd: a copy of it\n"
    [(_, _, at, screen)] = shells.asked
    assert (at, screen.plain, screen.term) == (None, True, "dumb")


async def test_a_reader_that_goes_ends_it(shells: Shells, command: Callable[..., Command]) -> None:
    """As any program in a pipe, without a traceback."""

    async def floods(person: Person) -> None:
        while True:
            await person.show(b"x" * 60_000)

    shells.talk = floods
    process = command("--job", "build", pipes=True)
    assert process.process.stdout is not None
    assert process.process.stderr is not None
    await thread(process.process.stdout.read, 10)
    process.process.stdout.close()
    assert await thread(process.process.wait) == 128 + signal.SIGPIPE
    assert process.process.stderr.read() == b""


async def test_refusals(shells: Shells, command: Callable[..., Command]) -> None:
    """What is unknown is status 4, what the daemon will not do 1; the terminal is as it was."""
    unknown = command("--job", "deploy")
    assert await thread(unknown.end) == 4
    assert b"'deploy' means no job of this run: there are 1 (build), 2 (test (a))" in unknown.shown
    shells.error = LookupError("no machine of job 1 is kept")
    none = command("--job", "build")
    assert await thread(none.end) == 4
    assert b"runnerd: no machine of job 1 is kept\r\n" in none.shown
    shells.error = control.Refused("the pool is paused")
    paused = command("--job", "build")
    assert await thread(paused.end) == 1
    assert b"runnerd: the pool is paused\r\n" in paused.shown
    assert unknown.restored
    assert none.restored
    assert paused.restored
