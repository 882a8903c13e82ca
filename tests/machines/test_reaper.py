"""Ending what an earlier daemon left, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from runnerd.machines.cgroups import Groups
from runnerd.machines.launcher import strays
from runnerd.machines.reaper import mark, reap


@pytest.fixture
def left(tmp_path):
    """Starts processes that look like machines; whatever still runs at the end is ended."""
    processes = []

    def start(name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["/bin/sh", "-c", "read forever", "-name", name], stdin=subprocess.PIPE)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_only_machines_of_this_state_directory_are_ended(left, tmp_path):
    """What bears the mark is killed, unless it is spared; another directory's machine lives on."""
    ours, theirs = mark(tmp_path / "a"), mark(tmp_path / "b")
    stray, known, foreign = left(f"{ours}1"), left(f"{ours}2"), left(f"{theirs}1")
    assert reap(ours, spare=f"{ours}2".__eq__) == [f"{ours}1"]
    assert stray.wait(timeout=30) == -9
    assert (known.poll(), foreign.poll()) == (None, None)
    assert reap(ours, spare=f"{ours}2".__eq__) == []
    assert set(strays(ours).values()) == {f"{ours}2"}


def test_the_mark_is_the_directory_however_it_is_named(tmp_path):
    """A link to the state directory is the same directory; another one has another mark."""
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to("state")
    assert mark(tmp_path / "link") == mark(tmp_path / "state") != mark(tmp_path)
    assert mark(tmp_path).startswith("runnerd-")


def test_left_control_groups_are_removed(tmp_path):
    """A group with the mark goes, one that is spared or another's stays."""
    (tmp_path / "memory.limit_in_bytes").write_text("max")
    for name in ("runnerd-a-1", "runnerd-a-2", "runnerd-b-1"):
        (tmp_path / name).mkdir()
    reap("runnerd-a-", groups=Groups(tmp_path), spare="runnerd-a-2".__eq__)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["runnerd-a-2", "runnerd-b-1"]


def test_a_host_without_strays_is_left_alone(tmp_path):
    """Nothing to end is not an error."""
    assert reap("runnerd-none-", proc=Path("/proc")) == []
