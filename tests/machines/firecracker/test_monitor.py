"""One Firecracker's end, played by a process that sleeps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import trio

from runnerd.machines.firecracker import monitor
from runnerd.machines.firecracker.jail import Jail
from runnerd.machines.firecracker.monitor import JailFailed, Monitor


def sleeping() -> subprocess.Popen[bytes]:
    """A process that plays Firecracker."""
    return subprocess.Popen(["sleep", "60"])


@pytest.fixture
def prison():
    """A prepared jail with a short path."""
    base = Path("/tmp") / f"fc-{os.getpid()}"
    jail = Jail(base, "abc-1", os.geteuid())
    jail.prepare({}, {})
    yield jail
    jail.remove()
    (base / "firecracker").rmdir()
    base.rmdir()


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        ("", "Firecracker ended"),
        ("[ 1.0] Kernel panic - not syncing: out of luck\r\n", "its kernel panicked; its console ended with"),
        ("runnerd-init: the disks did not appear\r\n", "it could not boot; its console ended with"),
        ("a\x1b]52;c;evil\x07b\n", "Firecracker ended; its console ended with: a ]52;c;evil b"),
        ("x" * 100_000, "Firecracker ended; its console ended with: " + "x" * 300),
    ],
)
async def test_end_is_told_by_the_console(prison: Jail, console: str, reason: str) -> None:
    """The console's last words say what a status does not; nothing of a terminal's language gets out."""
    process = sleeping()
    running = Monitor(prison, process.pid)
    assert not running.ended
    prison.inside("serial").write_text(console)
    process.kill()
    process.wait()
    assert running.reason().startswith(reason)
    assert all(line.isprintable() for line in running.console_end())
    assert bool(running.console_end()) == ("\n" in console)
    await running.stop()
    await running.stop()
    assert not prison.folder.exists()


async def test_stopped_one_needs_no_reason(prison: Jail) -> None:
    """An end that was asked for is no failure."""
    process = sleeping()
    running = Monitor(prison, process.pid)
    await running.stop()
    assert process.wait() == -9
    assert running.reason() == ""


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo no cgroup >&2; exit 3", "the jailer ended with status 3: no cgroup"),
        ("echo started", "did not say which process it started: started"),
        ("sleep 60 & echo sorry; exit 1", "the jailer ended with status 1: sorry"),
    ],
)
async def test_jailer_that_fails_leaves_no_jail(prison: Jail, script: str, sentence: str) -> None:
    """Its own words are the reason; the jail is gone, and what has its id."""
    with pytest.raises(JailFailed, match=sentence):
        await monitor.start(["/bin/sh", "-c", script, "sh", "--id", prison.id], prison, environment={})
    assert not prison.folder.exists()
    assert monitor.running(prison.id) == []


async def test_one_that_has_ended_before_it_is_looked_at_is_no_riddle(prison: Jail) -> None:
    """The jailer ends well also where its program could not be run; its last words tell."""
    script = f"sh -c 'echo may not run' & echo $! >{prison.pid_file}; wait"
    running = await monitor.start(["/bin/sh", "-c", script], prison, environment={})
    assert running.ended
    with pytest.raises(JailFailed, match="did not start: Firecracker ended; it said: may not run"):
        await running.listens()
    await running.stop()
    await running.stop()
    assert not prison.folder.exists()


async def test_start_waits_for_the_jailer_alone(prison: Jail) -> None:
    """Firecracker has the jailer's output and keeps it: its end is not waited for, what it says there is
    bounded and holds nobody up, and is the reason where there is no console."""
    said = "yes noise | head -c 300000; yes more | head -c 300000"
    script = f"sh -c '{said}' 2>&1 & echo $! >{prison.pid_file}; echo started"
    with trio.fail_after(20):
        running = await monitor.start(
            ["/bin/sh", "-c", script], prison, environment={"PATH": "/usr/bin:/bin"}
        )
        with pytest.raises(JailFailed, match=r"did not start: Firecracker ended; it said: \w+"):
            await running.listens()
    await running.stop()
    await running.stop()
