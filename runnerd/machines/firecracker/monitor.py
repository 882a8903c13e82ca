"""One running Firecracker in its jail: its start by the jailer, its API, and why and how it ends."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import trio

from runnerd.machines.console import printable_lines
from runnerd.machines.firecracker.api import Api, ApiError
from runnerd.machines.firecracker.jail import Jail
from runnerd.machines.firecracker.requests import SERIAL

START = 10.0
"""Seconds for the jailer."""
END = 5.0
"""Seconds in which a killed process is gone."""
TAIL = 4096
"""Bytes of the end of the console, and of what Firecracker itself says, that are looked at."""
SHOWN = 300
_MOMENT = 0.005

_DEATHS = (
    (re.compile(rb"Kernel panic - not syncing"), "its kernel panicked"),
    (re.compile(rb"runnerd-init: "), "it could not boot"),
)


class JailFailed(Exception):
    """The jailer did not start Firecracker; says why."""


class Monitor:
    """A Firecracker that was started. `stop` must be called, and may be called twice."""

    def __init__(self, jail: Jail, pid: int, words: Words | None = None) -> None:
        self.jail = jail
        self.api = Api(jail.api)
        self.pid = pid
        self._words = words or Words()
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1  # it has ended already
        self._stopped = False

    @property
    def ended(self) -> bool:
        """Whether the process is gone; one whose sockets were just closed is, in a moment."""
        return self._pidfd < 0 or bool(select.select([self._pidfd], [], [], _MOMENT)[0])

    async def listens(self) -> None:
        """Wait until it takes requests. Raises `JailFailed`; when it ends instead, at once and with why."""
        problem: ApiError | None = ApiError("Firecracker did not start")
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                if self._pidfd >= 0:
                    await trio.lowlevel.wait_readable(self._pidfd)
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            try:
                await self.api.ready(START)
                problem = None
            except ApiError as error:
                problem = error
            nursery.cancel_scope.cancel()
        if problem is not None:
            raise JailFailed(f"{problem}: {self.reason()}") from problem

    def reason(self) -> str:
        """Why it ended, as far as its console tells; empty when it was stopped from here.

        Its exit status says nothing: a panic, a reboot and an orderly end are all 0 (`src/vmm/src/lib.rs`).
        """
        if self._stopped:
            return ""
        tail = self._console()
        told = next((words for pattern, words in _DEATHS if pattern.search(tail)), "")
        parts = [told or ("Firecracker ended" if self.ended else "")]
        parts += [f"its console ended with: {shown}"] if (shown := _shown(tail)) else []
        if not shown and self.ended:
            parts += [f"it said: {said}"] if (said := _shown(self._words.said())) else []
        return "; ".join(part for part in parts if part)

    def console_end(self) -> tuple[str, ...]:
        """The printable lines of the console's last `TAIL` bytes; none once it was stopped."""
        tail = self._console()
        text = tail.decode(errors="replace").replace("\r", "\n")
        return printable_lines(text if len(tail) < TAIL else text.partition("\n")[2])

    async def stop(self) -> None:
        """Kill it, wait for its end (bounded), and remove its jail; safe to call twice."""
        with trio.CancelScope(shield=True):
            self._stopped = self._stopped or not self.ended
            if self._pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                with trio.move_on_after(END):
                    await trio.lowlevel.wait_readable(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1
            self._words.close()
            await trio.to_thread.run_sync(self.jail.remove)

    def _console(self) -> bytes:
        """The end of what the guest wrote; the file lies where its user may do as it likes."""
        try:
            file = os.open(
                self.jail.inside(SERIAL), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError:
            return b""
        try:
            return os.pread(file, TAIL, max(0, os.fstat(file).st_size - TAIL))
        except OSError:
            return b""
        finally:
            os.close(file)


class Words:
    """What the jailer says, and Firecracker after it: they share their output, which stays open.

    Nobody reads on while a machine runs, so what does not fit into the pipe is lost, and holds nobody up.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._said = b""

    def started(self) -> None:
        """Who speaks has it."""
        os.close(self.writer)
        self.writer = -1

    def said(self) -> bytes:
        """The last `TAIL` bytes that were said."""
        try:
            if self._reader >= 0:
                self._said = (self._said + os.read(self._reader, 1 << 20))[-TAIL:]
        except BlockingIOError:
            pass
        return self._said

    def close(self) -> None:
        """Safe to call twice."""
        for end in (self._reader, self.writer):
            if end >= 0:
                os.close(end)
        self._reader = self.writer = -1


def _shown(text: bytes) -> str:
    """The printable last words of three lines."""
    lines = text.decode(errors="replace").strip().splitlines()[-3:]
    return "".join(c if c.isprintable() else " " for c in " ".join(lines))[-SHOWN:].strip()


async def start(command: Sequence[str], jail: Jail, *, environment: dict[str, str]) -> Monitor:
    """Let the jailer start Firecracker in a prepared jail.

    Raises `JailFailed` and OSError; then the jail is gone, with whatever runs in it.
    """
    words = Words()
    try:
        pid = await _start(command, jail, environment, words)
        return Monitor(jail, pid, words)
    except BaseException:
        words.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_end, jail)
        raise


def _end(jail: Jail) -> None:
    """What a jailer started that failed afterwards has no jail any more to be found by."""
    for pid in running(jail.id):
        kill(pid)
    jail.remove()


async def _start(command: Sequence[str], jail: Jail, environment: dict[str, str], words: Words) -> int:
    with trio.move_on_after(START):
        # In a namespace of its own Firecracker is the jailer's child, and the jailer ends at once. The end of
        # its output is not waited for: it would be Firecracker's.
        done = await trio.run_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=words.writer,
            stderr=words.writer,
            check=False,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        words.started()
        said = words.said().decode(errors="replace").strip()[-500:]
        if done.returncode != 0:
            raise JailFailed(f"the jailer ended with status {done.returncode}: {said}")
        pid = await trio.to_thread.run_sync(_pid, jail.pid_file)
        if pid is None:
            raise JailFailed(f"the jailer did not say which process it started: {said}")
        return pid
    raise JailFailed(f"the jailer took longer than {START:g} s")


def _pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def running(id: str, *, proc: Path = Path("/proc")) -> list[int]:
    """The processes that were given this id, which nobody else has. Blocks for a moment."""
    wanted = {id.encode(), f"--id={id}".encode()}
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted & set(words):
                found.append(int(entry.name))
    return found


def kill(pid: int) -> None:
    """Kill a process if it is there."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], END)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
