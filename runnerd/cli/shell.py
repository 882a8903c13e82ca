"""`runnerd shell`: a terminal in a copy of a job's machine, as it was before one of its steps."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from runnerd.cli import options
from runnerd.cli.control import daemon
from runnerd.cli.output import Code, clean, fail
from runnerd.cli.runs import RunId, chosen
from runnerd.web.frames import Kind
from runnerd.web.terminal_client import Line, dial

CHUNK = 64 << 10
WAY_OUT = b"\x1d"
"""Ctrl-]: typed three times within a second it leaves, whatever the machine does."""
_FATAL = (signal.SIGTERM, signal.SIGHUP)
"""Signals that would end the command and leave the terminal as it is."""


class Ended(Exception):
    """The shell ended without an exit status; the daemon's sentence says why."""


class Left(Exception):
    """The person left, without waiting for the machine."""


def shell(
    run: RunId,
    job: Annotated[str, typer.Option("--job", "-j", help="Which job: its name, its key or its number.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="Before which step: its number, id or name; else the newest kept."),
    ] = None,
    socket: options.Socket = None,
) -> None:
    """Open a shell in a copy of a job's machine as it was before a step, and end with its status.

    Without a terminal the commands are read from standard input, as a script is. On a terminal Ctrl-] typed
    three times within a second leaves, whatever the machine does.
    """
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    plain = not (os.isatty(keys) and os.isatty(screen))
    with daemon(socket) as client:
        number = chosen(client.run(run)["jobs"], job)
        term = "dumb" if plain else os.environ.get("TERM") or "dumb"
        with dial(client.path, run, number, at, window=_window(screen), term=term, plain=plain) as line:
            try:
                status = attend(line, keys, screen, terminal=not plain)
            except Ended as problem:
                fail(clean(problem), Code.NO_MACHINE)
            except Left:
                status = Code.INTERRUPTED
            except BrokenPipeError:
                status = 128 + signal.SIGPIPE
    raise typer.Exit(status)


def attend(line: Line, keys: int, screen: int, *, terminal: bool) -> int:
    """Pass on what is typed and shown until the daemon has said its last word; return the exit status.

    A `terminal` on the descriptor `keys` is raw meanwhile, and as it was before whatever happens. Raises
    `Unreachable`, `Left`, and `Ended` when the shell ended without a status.
    """
    leaving = _Leaving()
    with _ended_by_signals(), _bell() as bell, _raw(keys, terminal) as make_raw:
        typing = True
        while True:
            sources = [line.fileno(), bell, *([keys] if typing and not line.full else [])]
            ready, _, _ = select.select(sources, [line.fileno()] if line.pending else [], [])
            if bell in ready:
                os.read(bell, CHUNK)
                make_raw()
                line.resize(*_window(screen))
            if keys in ready:
                typed = _read(keys)
                if terminal and leaving.after(typed, time.monotonic()):
                    raise Left
                line.type(typed)
                if not typed:
                    typing = False
                    line.end()
            line.flush()
            for kind, payload in line.receive() if line.fileno() in ready else ():
                if kind is Kind.SCREEN:
                    _write(screen, payload)
                elif kind is Kind.NOTE:
                    _note(payload, terminal)
                elif kind is Kind.STATUS:
                    return int.from_bytes(payload[:1], "big")
                else:
                    raise Ended(payload.decode(errors="replace"))


class _Leaving:
    """Sees the way out in what is typed."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def after(self, typed: bytes, now: float) -> bool:
        """Whether these keys, typed now, are the last of the three."""
        for number in range(len(typed)):
            if typed[number : number + 1] != WAY_OUT:
                self._times.clear()
                continue
            self._times = [*self._times, now][-3:]
            if len(self._times) == 3 and now - self._times[0] <= 1.0:
                return True
        return False


def _window(descriptor: int) -> tuple[int, int]:
    """Rows and columns; where there is no terminal, those of old."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return 24, 80
    return size.lines or 24, size.columns or 80


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, CHUNK)
    except OSError:  # the terminal was hung up
        return b""


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _note(payload: bytes, terminal: bool) -> None:
    """Say something of the daemon's own; a raw terminal needs to be told to return its carriage."""
    end = "\r\n" if terminal else "\n"
    typer.echo(f"runnerd: {clean(payload.decode(errors='replace'))}{end}", err=True, nl=False)


@contextmanager
def _raw(descriptor: int, terminal: bool) -> Iterator[Callable[[], None]]:
    """Keep a terminal raw, if it is one; gives what makes it raw again after somebody else changed it."""
    if not terminal:
        yield lambda: None
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield lambda: tty.setraw(descriptor)
    finally:
        # What a hostile machine had the terminal answer is not to be read by the person's own prompt.
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


@contextmanager
def _bell() -> Iterator[int]:
    """A descriptor that can be read once a signal has come: the window has changed, or the command goes on.

    All that are handled ring it. One that comes just before `select` begins to wait would be heard only when
    something else ends that.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(number: int, frame: FrameType | None) -> None:
        """Be handled."""

    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        with _handled((signal.SIGWINCH, signal.SIGCONT), ring):
            yield reading
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal that would end the command leave by an exception, so that all is put back."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise typer.Exit(128 + number)

    with _handled(_FATAL, leave):
        yield


@contextmanager
def _handled(
    numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
