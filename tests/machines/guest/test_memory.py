"""When a process is killed for want of memory, and when none is."""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from runnerd.machines.guest import memory, system
from runnerd.machines.guest.memory import MemoryGuard, guard

GIB = 1 << 30
NOW = 1000.0
"""When the kernel tells of anything."""


class Watching:
    """An agent that only watches."""

    def __init__(self) -> None:
        self.watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self.timers: dict[int, MemoryGuard] = {}

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        self.watched.pop(fd, None)
        if mask:
            self.watched[fd] = (mask, handler)

    def told(self, events: int = select.POLLPRI) -> None:
        """The kernel tells of pressure."""
        ((mask, pressed),) = self.watched.values()
        assert mask == select.POLLPRI
        pressed(events)

    def waits(self, seconds: float) -> bool:
        """Whether something is due again, so many seconds from now."""
        now = NOW + seconds
        (timed,) = self.timers.values()
        due = timed.due(now)
        assert due is None or now < due <= now + 0.5
        return due is not None


@dataclass
class Kernel:
    """What a kernel says of its memory, and for how long pages have to stay in it."""

    pressure: Path
    means: Path
    total: int = GIB
    left: int = 0

    def may_kill(self) -> bool:
        return int(self.means.read_text().rstrip("\0")) > 0


def raises(error: Exception) -> Callable[..., object]:
    """A call that fails."""

    def fail(*_: object) -> object:
        raise error

    return fail


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The kernel under the agent."""
    there = Kernel(tmp_path / "pressure", tmp_path / "means")
    there.pressure.touch()
    there.means.write_text("1")
    monkeypatch.setattr(memory, "PRESSURE", str(there.pressure))
    monkeypatch.setattr(memory, "MEANS", str(there.means))
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: NOW))
    monkeypatch.setattr(system, "keep_in_memory", lambda: None)
    monkeypatch.setattr(system, "memory", lambda meminfo: (there.total, there.left))
    return there


@pytest.mark.parametrize(
    ("total", "left", "may_kill"),
    [
        (GIB, 50 << 20, False),
        (GIB, 30 << 20, True),
        (16 * GIB, 100 << 20, False),
        (16 * GIB, 60 << 20, True),
        (256 << 20, 18 << 20, False),
        (256 << 20, 12 << 20, True),
    ],
)
def test_the_kernel_may_kill_when_processes_wait_and_nothing_is_left(
    kernel: Kernel, total: int, left: int, may_kill: bool
) -> None:
    """Pressure alone kills nobody: a job may write files faster than the disk takes them."""
    agent = Watching()
    guard(agent)
    assert kernel.pressure.read_bytes() == b"some 400000 1000000\0"
    assert not kernel.may_kill()
    kernel.total, kernel.left = total, left
    agent.told()
    assert kernel.may_kill() == may_kill


def test_it_may_as_long_as_nothing_is_left(kernel: Kernel) -> None:
    """Once memory is back nobody else is killed."""
    agent = Watching()
    guard(agent)
    agent.told()
    assert agent.waits(0.1)
    assert kernel.may_kill()
    kernel.left = GIB // 2
    assert not agent.waits(0.2)
    assert not kernel.may_kill()
    assert not agent.timers


def test_it_may_not_for_long_after_the_last_pressure(kernel: Kernel) -> None:
    """A job that lives with little memory, and waits for none, lives on."""
    agent = Watching()
    guard(agent)
    agent.told()
    assert agent.waits(1)
    agent.told()
    assert not agent.waits(3)
    assert not kernel.may_kill()


def test_the_kernels_means_stays_where_it_tells_of_no_pressure(kernel: Kernel) -> None:
    """A machine without either would hang."""
    kernel.pressure.unlink()
    agent = Watching()
    guard(agent)
    assert kernel.may_kill()
    assert not agent.watched


def test_the_means_is_taken_back_however_often_that_fails(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left in force it would kill jobs that merely write files."""
    agent = Watching()
    guard(agent)
    agent.told()
    kernel.left = GIB // 2
    with monkeypatch.context() as short:
        short.setattr(memory.os, "pwrite", raises(OSError(errno.ENOMEM, "no memory for that")))
        assert agent.waits(0.1)
        assert agent.waits(5)
    assert kernel.may_kill()
    assert not agent.waits(0.1)
    assert not kernel.may_kill()


def test_where_the_memory_cannot_be_told_nobody_is_killed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is the machine's first process: it must not end of that either."""
    agent = Watching()
    guard(agent)
    monkeypatch.setattr(system, "memory", raises(OSError(errno.ENOMEM, "no memory for that")))
    agent.told()
    assert not kernel.may_kill()


@pytest.mark.parametrize("events", [select.POLLERR, select.POLLERR | select.POLLPRI, select.POLLNVAL])
def test_the_kernels_means_comes_back_when_it_tells_no_more(kernel: Kernel, events: int) -> None:
    """An error, which may look like news, would come for ever, so nothing more is watched."""
    agent = Watching()
    guard(agent)
    agent.told()
    agent.told(events)
    assert kernel.may_kill()
    assert not agent.watched
    assert not agent.timers


def test_a_kernel_without_such_means_is_left_alone(kernel: Kernel) -> None:
    """It is not asked to tell of pressure either."""
    kernel.means.unlink()
    agent = Watching()
    guard(agent)
    assert (kernel.pressure.read_bytes(), agent.watched) == (b"", {})
