"""The soak: what it counts, and that it finds what was left behind."""

import os
import subprocess

from bench import soak
from bench.drivers import opening


async def test_machines_that_leave_nothing_leave_no_trace(tmp_path):
    """Cycles of machines in processes end with as much as they began with."""
    before, after, seconds = await soak.soak(opening("process", tmp_path), 3, tmp_path)
    assert after.left_since(before) == {}
    assert seconds > 0


def test_everything_left_behind_is_found(tmp_path):
    """A process, a descriptor, and a file more are each counted; less than before is no leak."""
    before = soak.traces(tmp_path)
    child = subprocess.Popen(["sleep", "60"])
    descriptor = os.open("/dev/null", os.O_RDONLY)
    (tmp_path / "left").touch()
    try:
        after = soak.traces(tmp_path)
    finally:
        child.kill()
        child.wait()
        os.close(descriptor)
    left = after.left_since(before)
    assert left["processes"] == left["files"] == 1
    assert left["descriptors"] >= 1
    assert "processes" not in before.left_since(after)
    assert "descriptors" not in before.left_since(after)


def test_only_mounts_of_machines_count(tmp_path):
    """What other programs mount meanwhile is none of our leaks."""
    places = ("/proc", f"{tmp_path}/jail/root", f"{tmp_path}x", "/run/runnerd/a")
    table = "".join(f"any {place} tmpfs rw 0 0\n" for place in places)
    assert soak.mounts(table, tmp_path) == 2


def test_the_command_says_what_was_found(capsys):
    """Each driver's line has its cycles and what is left; the status is 0 when nothing is."""
    assert soak.main(["--driver", "fake", "--cycles", "20"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("fake: 20 cycles in")
    assert "left behind: nothing" in said
