"""The kernel's interfaces."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from runnerd.machines.guest import system


def test_children_are_found() -> None:
    """The children of a process are listed, and those of one that is gone are none."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in system.children(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert child.pid not in system.children(os.getpid())


def test_oom_kills_is_a_count_that_never_falls() -> None:
    """The kernel's counter is read as a number."""
    first = system.oom_kills()
    assert 0 <= first <= system.oom_kills()


def test_memory_is_told_in_bytes() -> None:
    """What there is and what is left of it are read, as often as one asks."""
    meminfo = os.open("/proc/meminfo", os.O_RDONLY)
    try:
        for _ in range(2):
            total, left = system.memory(meminfo)
            assert total > left > 1 << 20
    finally:
        os.close(meminfo)
    with pytest.raises(OSError, match="descriptor"):
        system.memory(meminfo)


def test_a_disk_without_room_or_inodes_is_full(monkeypatch) -> None:
    """What is left for those who are not root counts, bytes and inodes; an absent folder is not full."""
    roomy = {"f_bavail": 1024, "f_frsize": 4096, "f_files": 100, "f_favail": 1}
    for change, full in (
        ({}, False),
        ({"f_bavail": 255}, True),
        ({"f_favail": 0}, True),
        ({"f_favail": 0, "f_files": 0}, False),
    ):
        monkeypatch.setattr(os, "statvfs", lambda _, said={**roomy, **change}: SimpleNamespace(**said))
        assert system.is_full("/anywhere") is full
    monkeypatch.undo()
    assert system.is_full("/nonesuch") is False


def test_devices_are_named_or_looked_up() -> None:
    """A path is itself; an unknown serial number is an error that names it."""
    assert system.device("/dev/vdb") == "/dev/vdb"
    with pytest.raises(FileNotFoundError, match="no disk with the serial number nonesuch"):
        system.device("serial:nonesuch")


def test_absent_port_is_waited_for_and_then_named() -> None:
    """A virtio port that does not appear is an error after the time given."""
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"no virtio port named nonesuch after 0\.05 s"):
        system.virtio_port("nonesuch", 0.05)
    assert time.monotonic() - started < 30


def test_failed_mount_names_both_ends(tmp_path: Path) -> None:
    """A mount that cannot be says what should have gone where."""
    with pytest.raises(OSError, match=f"cannot mount nothing on {tmp_path}/absent"):
        system.mount("nothing", f"{tmp_path}/absent", "tmpfs")


def test_orphans_come_to_the_subreaper() -> None:
    """After becoming a subreaper, a process inherits its grandchildren."""
    script = (
        "import os, subprocess, sys; sys.path.insert(0, sys.argv[1])\n"
        "from runnerd.machines.guest import system\n"
        "system.become_subreaper()\n"
        "subprocess.run(['sh', '-c', 'sleep 0.1 &'])\n"
        "print(os.waitpid(-1, 0)[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, Path(__file__).parents[3]], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
