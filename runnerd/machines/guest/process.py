"""One running process of the job: its streams under credit, its end, and the bounded drain after it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from typing import Any

from . import system
from .agent import CHUNK, Agent, Exchange
from .spawn import Program, spawn
from .wire import DATA, ERRORS, FROM_GUEST, WINDOW_SIZE

IDLE = 0.5
"""Seconds without output after which an ended process's streams count as drained."""
LONGEST = 2.0
"""Seconds after its end that what it left running may still write."""
_FIONREAD = 0x541B


class Process(Exchange):
    """An `exec`: streams until the process ended and its output was drained, then sends EXIT."""

    def __init__(self, agent: Agent, stream: int, program: Program, stdin: int | None) -> None:
        """Start the program; `stdin` None gives it a pipe that the host fills."""
        self._stdin = -1
        self._pending = bytearray()
        self._no_more = False
        self._ended: float | None = None
        self._last = 0.0
        self._status = 0
        self._aborted = False
        self._oom = system.oom_kills() if agent.init else 0
        self.agent = agent
        *given, self._fds = self._open_streams(program, stdin)
        theirs = set(given) - {stdin, agent.null}
        try:
            self.pid = spawn(program, *given)
        except BaseException:
            for end in (*self._fds.values(), *([self._stdin] if self._stdin >= 0 else ())):
                os.close(end)
            raise
        finally:
            for end in theirs:
                os.close(end)
        super().__init__(agent, stream)
        self._credit = dict.fromkeys(self._fds, WINDOW_SIZE)
        self._owed: dict[int, int] = {}
        for kind, read in self._fds.items():
            os.set_blocking(read, False)
            self._listen(kind)
        agent.children[self.pid] = self._exited

    _outputs: tuple[int, ...] = (FROM_GUEST, ERRORS)

    def _open_streams(self, program: Program, stdin: int | None) -> tuple[int, int, int, dict[int, int]]:
        """Return the process's three streams, and by kind what the agent reads of them."""
        ends: list[int] = []
        try:
            if stdin is None:
                stdin, self._stdin = os.pipe()
                ends += (stdin, self._stdin)
                os.set_blocking(self._stdin, False)
            reads: dict[int, int] = {}
            writes: list[int] = []
            for kind in self._outputs:
                reads[kind], write = os.pipe()
                writes.append(write)
                ends += (reads[kind], write)
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        return stdin, writes[0] if len(writes) > 1 else self.agent.null, writes[-1], reads

    def _read(self, kind: int, count: int) -> bytes:
        return os.read(self._fds[kind], count)

    def data(self, payload: bytes) -> None:
        """Pass on to the process."""
        if self._stdin >= 0:
            self._pending += payload
            self._feed(0)

    def eof(self) -> None:
        """Close its standard input once all is written."""
        self._no_more = True
        self._feed(0)

    def window(self, kind: int, count: int) -> None:
        """Read on."""
        if kind in self._fds:
            self._credit[kind] += count
            self._listen(kind)

    def signal(self, number: int) -> None:
        """Send a signal to the process group."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def reset(self) -> None:
        """Kill the process group, and tell of no more output."""
        self._aborted = True
        self.signal(signal.SIGKILL)
        for kind in list(self._fds):
            self._close(kind)
        if self._ended is not None:
            self._finish()

    def due(self, now: float) -> float | None:
        """End the drain when its time has come."""
        if self._ended is None:
            return None
        until = min(self._last + IDLE, self._ended + LONGEST)
        if self._fds and (any(left > 0 for left in self._owed.values()) or now < until):
            return max(until, now + 0.01)
        self._finish()
        return None

    def _listen(self, kind: int) -> None:
        mask = select.POLLIN if self._credit[kind] > 0 else 0
        self.agent.watch(self._fds[kind], mask, lambda _: self._pump(kind))

    def _pump(self, kind: int) -> None:
        if kind not in self._fds:
            return
        try:
            data = self._read(kind, min(CHUNK, self._credit[kind]))
        except BlockingIOError:
            return
        if not data:
            self._close(kind)
            if self._ended is not None and not self._fds:
                self._finish()
            return
        self._deliver(kind, data)
        if self._ended is not None:
            self._last = time.monotonic()
            self._owed[kind] -= len(data)

    def _deliver(self, kind: int, data: bytes) -> None:
        self._credit[kind] -= len(data)
        self.agent.send_in_order(DATA, self.stream | kind, data)
        if self._credit[kind] <= 0:
            self._listen(kind)

    def _feed(self, _: int) -> None:
        """Write to the process what the host sent, as far as it takes it."""
        if self._stdin < 0:
            return
        try:
            count = os.write(self._stdin, self._pending) if self._pending else 0
        except BlockingIOError:
            count = 0
        except OSError:  # it reads no more: what comes is thrown away
            count = len(self._pending)
            self._no_more = True
        del self._pending[:count]
        if count:
            self.took(count)
        if self._no_more and not self._pending:
            self.agent.watch(self._stdin, 0, self._feed)
            os.close(self._stdin)
            self._stdin = -1
        else:
            self.agent.watch(self._stdin, select.POLLOUT if self._pending else 0, self._feed)

    def _exited(self, status: int) -> None:
        self._status = status
        self._ended = self._last = time.monotonic()
        if self._aborted or not self._fds:
            return self._finish()
        # What lies in the pipes now is the process's own and is delivered however slow the host is.
        for kind, fd in self._fds.items():
            size = fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0")
            self._owed[kind] = int.from_bytes(size, "little")
        self.agent.timers[self.stream] = self

    def _close(self, kind: int) -> None:
        fd = self._fds.pop(kind)
        self._owed.pop(kind, None)
        self.agent.watch(fd, 0, self._feed)
        os.close(fd)

    def _finish(self) -> None:
        for kind in list(self._fds):
            self._close(kind)
        self._pending.clear()
        self.eof()
        self._report()

    def _report(self) -> None:
        code = os.waitstatus_to_exitcode(self._status)
        oom = self.agent.init and system.oom_kills() > self._oom
        root = self.agent.job_root
        self.end(
            {
                "code": code if code >= 0 else None,
                "signal": -code if code < 0 else None,
                "out_of_memory": oom,
                "disk_full": self.agent.init and root is not None and system.is_full(root),
            }
        )


def program_of(agent: Agent, request: dict[str, Any]) -> Program:
    """What a request asks to run: argv, env, cwd, user."""
    return Program(
        request["argv"],
        request["env"],
        request.get("cwd", "/"),
        root=agent.job_root,
        user=request.get("user") if agent.init else None,
    )


def start(agent: Agent, stream: int, request: dict[str, Any]) -> None:
    """Operation `exec`: argv, env, cwd, user, stdin (whether the host sends any)."""
    program = program_of(agent, request)
    process = Process(agent, stream, program, None if request.get("stdin") else agent.null)
    agent.answer(stream, {"pid": process.pid}, more=True)


def send_signal(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `signal`: sends `signal` to the process group of the exec on stream `to`, if there is one."""
    process = agent.exchanges.get(int(request["to"]))
    if isinstance(process, Process):
        process.signal(int(request["signal"]))
    return {"found": process is not None}
