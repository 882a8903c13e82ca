"""What ends a job's hunger for memory: the kernel alone would let the machine hang.

Short of memory, it drops the programs that run and reads them back for ever. Its own means against that
(`min_ttl_ms`, https://docs.kernel.org/admin-guide/mm/multigen_lru.html) goes by the age of pages alone: it
kills jobs that merely write files, with most of the memory free. So it is in force only while processes
wait for memory (https://docs.kernel.org/accounting/psi.html) and there is none.
"""

from __future__ import annotations

import os
import select
import time

from . import system
from .agent import Agent

PRESSURE = "/proc/pressure/memory"
MEANS = "/sys/kernel/mm/lru_gen/min_ttl_ms"
MEMORY = "/proc/meminfo"

_STALLED = b"some 400000 1000000\0"
"""Told of once a second, when in that second a process waited for memory for so many microseconds."""
_LEFT, _LEFT_AT_LEAST, _LEFT_AT_MOST = 0.04, 16 << 20, 64 << 20
"""Less than this part of the memory is none; of a small one so many bytes at least, of a large one at most.

The programs that run have to be read into something, and of what is called available the kernel itself needs
some.
"""
_IN_FORCE, _OUT_OF_FORCE = b"10000", b"0"
"""Milliseconds for which pages have to stay in memory, or the kernel kills who takes most."""
_TIMER = -1
_LONGEST, _LOOK = 2.0, 0.1
"""Seconds: for so long the kernel may kill after it told of pressure, and so often the agent looks again."""


class MemoryGuard:
    """Lets the kernel kill the process that takes most whenever processes wait for memory that is not there.

    It takes jobs' processes before the agent (`spawn`), and one at a time, which is why it is not done here:
    only the kernel knows when the memory of who was killed is back.
    """

    def __init__(self, agent: Agent) -> None:
        """Raises OSError where the kernel does not tell of pressure, or has no such means."""
        self._agent = agent
        self._until = 0.0
        # Held open: there may be no memory to open them, and a job can put other files in their places.
        self._files: list[int] = []
        try:
            self._means = self._open(MEANS, os.O_WRONLY)
            self._memory = self._open(MEMORY, os.O_RDONLY)
            self._pressure = self._open(PRESSURE, os.O_RDWR | os.O_NONBLOCK)
            os.write(self._pressure, _STALLED)
            os.pwrite(self._means, _OUT_OF_FORCE, 0)
        except OSError:
            self._close()
            raise
        agent.watch(self._pressure, select.POLLPRI, self._pressed)

    def due(self, now: float) -> float | None:
        """While the kernel may kill: look whether it still has to."""
        if (now < self._until and self._nothing_left()) or not self._put(_OUT_OF_FORCE):
            return now + _LOOK
        self._agent.timers.pop(_TIMER, None)
        return None

    def _pressed(self, events: int) -> None:
        if events & ~select.POLLPRI:  # the kernel tells no more, and would say so for ever
            self._agent.watch(self._pressure, 0, self._pressed)
            self._agent.timers.pop(_TIMER, None)
            self._put(_IN_FORCE)
            self._close()
        elif self._nothing_left():
            self._until = time.monotonic() + _LONGEST
            self._agent.timers[_TIMER] = self
            self._put(_IN_FORCE)

    def _nothing_left(self) -> bool:
        try:
            total, left = system.memory(self._memory)
        except OSError:  # that cannot be told
            return False
        return left < min(max(total * _LEFT, _LEFT_AT_LEAST), _LEFT_AT_MOST)

    def _put(self, means: bytes) -> bool:
        try:
            os.pwrite(self._means, means, 0)
        except OSError:  # no memory for that either
            return False
        return True

    def _open(self, path: str, flags: int) -> int:
        self._files.append(os.open(path, flags))
        return self._files[-1]

    def _close(self) -> None:
        for fd in self._files:
            os.close(fd)


def guard(agent: Agent) -> None:
    """Watch over the memory of a machine that is the agent's own.

    Where its kernel does not allow that, its means stays in force as the machine's first program set it.
    """
    try:
        MemoryGuard(agent)
        system.keep_in_memory()
    except OSError:  # a container, or a kernel without the one or the other
        pass
