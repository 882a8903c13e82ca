"""One Firecracker's end, played by a process that sleeps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

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
    ],
)
async def test_jailer_that_fails_leaves_no_jail(prison: Jail, script: str, sentence: str) -> None:
    """Its own words are the reason, and the jail is gone."""
    with pytest.raises(JailFailed, match=sentence):
        await monitor.start(["/bin/sh", "-c", script], prison, environment={})
    assert not prison.folder.exists()
