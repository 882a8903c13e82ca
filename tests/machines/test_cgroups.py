"""Control groups: used only where they were handed to us. The kernel's files are played by ordinary ones."""

import errno
import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from runnerd.machines import cgroups
from runnerd.machines.cgroups import Bounds, Groups, delegated, usable


def version_two(tmp_path, controllers="cpu memory pids"):
    """A parent group as version 2 has it, with the daemon in it."""
    parent = tmp_path / "runnerd.service"
    parent.mkdir()
    (parent / "cgroup.controllers").write_text(controllers)
    (parent / "cgroup.procs").write_text("41\n42\n")
    (parent / "cgroup.subtree_control").write_text("")
    return parent


def test_version_two_bounds_what_it_can(tmp_path):
    """The daemon moves to a leaf, controllers are shared out, and a machine's group gets its bounds."""
    parent = version_two(tmp_path)
    groups = Groups(parent, everyone=True)
    assert (parent / "daemon/cgroup.procs").read_text() in ("41", "42")
    assert (parent / "cgroup.subtree_control").read_text() == "+cpu"  # the last of three writes
    (parent / "vm-1").mkdir()
    for name in ("memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "cpu.weight"):
        (parent / "vm-1" / name).write_text("max")
    groups.enter("vm-1", 77, Bounds(memory=512 << 20, processes=140, processors=2))
    assert (parent / "vm-1/memory.max").read_text() == str(512 << 20)
    assert (parent / "vm-1/memory.swap.max").read_text() == "0"
    assert (parent / "vm-1/memory.oom.group").read_text() == "1"
    assert (parent / "vm-1/pids.max").read_text() == "140"
    assert (parent / "vm-1/cpu.max").read_text() == "300000 100000"
    assert (parent / "vm-1/cpu.weight").read_text() == "20"
    assert (parent / "vm-1/cgroup.procs").read_text() == "77"


def test_version_one_is_used_where_an_operator_names_it(tmp_path):
    """A group of version 1's memory controller bounds memory by its own file."""
    (tmp_path / "memory.limit_in_bytes").write_text("max")
    groups = Groups(tmp_path)
    groups.enter("vm-1", 77, Bounds(memory=1 << 30))
    assert (tmp_path / "vm-1/memory.limit_in_bytes").read_text() == str(1 << 30)


def test_version_one_bounds_swap_where_it_counts_it(tmp_path):
    """Memory and swap together get the same limit, so that there is no swap."""
    (tmp_path / "memory.limit_in_bytes").write_text("max")
    (tmp_path / "vm-1").mkdir()
    (tmp_path / "vm-1/memory.memsw.limit_in_bytes").write_text("max")
    Groups(tmp_path).enter("vm-1", 77, Bounds(memory=1 << 30))
    assert (tmp_path / "vm-1/memory.memsw.limit_in_bytes").read_text() == str(1 << 30)


def test_version_two_without_some_controllers_bounds_memory_alone(tmp_path, monkeypatch):
    """What is not there, or cannot be shared out, is not counted on; machines have their group."""
    parent = version_two(tmp_path, "memory pids io")
    write = Path.write_text

    def refusing(path, text):
        if text == "+pids":
            raise OSError("Invalid argument")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refusing)
    groups = Groups(parent)
    assert groups.controllers == ("memory",)
    groups.enter("vm-1", 77, Bounds(memory=1 << 30))
    assert (parent / "vm-1/cgroup.procs").read_text() == "77"


def test_version_one_has_a_group_in_each_hierarchy(tmp_path):
    """Controllers of version 1 have trees of their own: a machine is in all, and leaves all."""
    for name in ("memory", "pids", "cpu,cpuacct"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").touch()
    (tmp_path / "memory/runnerd").mkdir()
    (tmp_path / "memory/runnerd/memory.limit_in_bytes").touch()
    groups = usable("memory/runnerd", root=tmp_path)
    assert groups is not None
    assert groups.controllers == ("memory", "pids", "cpu")
    cpu = tmp_path / "cpu,cpuacct/runnerd/vm-1"
    cpu.mkdir()
    for name in ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"):
        (cpu / name).touch()
    groups.enter("vm-1", 77, Bounds(memory=1 << 30, processors=3))
    assert [(cpu / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.shares")] == ["400000", "306"]
    assert [path.read_text() for path in tmp_path.glob("*/runnerd/vm-1/cgroup.procs")] == ["77"] * 3
    assert groups.left("vm-") == ["vm-1"]
    for path in tmp_path.glob("*/runnerd/vm-1/*"):
        path.unlink()
    assert groups.leave("vm-1")
    assert groups.left("vm-") == []


@pytest.mark.skipif(
    not all(os.access(f"/sys/fs/cgroup/{name}", os.W_OK) for name in ("memory", "pids", "cpu")),
    reason="this host lends no groups of version 1",
)
def test_the_kernel_holds_the_bounds():
    """In real groups a process has as many children as it may, and the values are the kernel's."""
    name = f"memory/runnerd-test-{uuid.uuid4().hex[:8]}"
    groups = usable(name)
    assert groups is not None
    assert groups.controllers == cgroups.CONTROLLERS
    places = cgroups.controllers(cgroups.ROOT / name)
    script = "read go; for each in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"
    words = ["/bin/bash", "-c", script]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        groups.enter("vm", process.pid, Bounds(memory=64 << 20, processes=4, processors=1))
        assert (places["cpu"] / "vm/cpu.cfs_quota_us").read_text() == "200000\n"
        assert (places["memory"] / "vm/memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        assert "Resource temporarily unavailable" in process.stderr.readline()
        assert int((places["pids"] / "vm/pids.current").read_text()) <= 4
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        while not groups.leave("vm"):
            pass
        for folder in places.values():
            folder.rmdir()


def test_a_named_group_is_made_or_refused(tmp_path):
    """Who names a parent gets it or an error, never silently none; an empty name means none."""
    assert usable("", root=tmp_path) is None
    for name in ("../elsewhere", "/", f"{tmp_path}/"):
        with pytest.raises(OSError, match="no control group below"):
            usable(name, root=tmp_path)
    with pytest.raises(OSError, match="not a control group"):
        usable("memory", root=tmp_path)
    assert (tmp_path / "memory").is_dir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("max")
    for name in ("memory", "/memory", f"{tmp_path}/memory"):
        groups = usable(name, root=tmp_path)
        assert groups is not None
        assert groups.version == 1


def test_only_this_process_leaves_a_named_group(tmp_path):
    """Others may be anybody's: they stay, and are named when the kernel refuses because of them."""
    parent = version_two(tmp_path)
    Groups(parent)
    assert not (parent / "daemon").exists()
    (parent / "cgroup.procs").write_text(f"41\n{os.getpid()}\n")
    Groups(parent)
    assert (parent / "daemon/cgroup.procs").read_text() == str(os.getpid())


def test_processes_in_the_way_are_named(tmp_path, monkeypatch):
    """Where the kernel will not share out memory, the error says whom to move, or what else to do."""
    parent = version_two(tmp_path)

    def busy(path, text):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "write_text", busy)
    with pytest.raises(OSError, match=r"has processes of its own \(41, 42\).*: move them elsewhere"):
        Groups(parent)


def test_a_group_says_whether_it_was_outgrown(tmp_path):
    """What the kernel counted tells that memory was lacking; a group that is gone tells nothing."""
    groups = Groups(version_two(tmp_path))
    (tmp_path / "runnerd.service/vm-1").mkdir()
    events = tmp_path / "runnerd.service/vm-1/memory.events"
    for text, expected in (("oom 3\noom_kill 0\n", False), ("oom 0\noom_kill 2\noom_group_kill 1\n", True)):
        events.write_text(text)
        assert groups.outgrown("vm-1") is expected
    assert not groups.outgrown("vm-2")


def test_a_group_without_memory_controller_is_refused(tmp_path):
    """What cannot bound memory is no parent for machines; the cure is told."""
    with pytest.raises(OSError, match=r"no memory controller: .* cgroup\.subtree_control"):
        Groups(version_two(tmp_path, "cpu pids"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="not a control group"):
        Groups(tmp_path / "empty")


def test_groups_are_left_twice_and_found_again(tmp_path, monkeypatch):
    """Leaving removes a group with those in it, twice as well; one in use is told; left ones are found."""
    groups = Groups(version_two(tmp_path))
    for name in ("runnerd-a-1", "runnerd-a-2", "runnerd-b-1"):
        (tmp_path / "runnerd.service" / name).mkdir()
    assert groups.left("runnerd-a-") == ["runnerd-a-1", "runnerd-a-2"]
    assert groups.leave("runnerd-a-1")
    assert groups.leave("runnerd-a-1")
    (tmp_path / "runnerd.service/runnerd-a-2/below/it").mkdir(parents=True)
    busy = tmp_path / "runnerd.service/runnerd-a-2/busy"
    busy.touch()
    assert not groups.leave("runnerd-a-2")
    assert not groups.end("runnerd-a-2", patience=0.0)
    assert (busy.parent / "cgroup.kill").read_text() == "1"
    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", lambda *arguments, **options: ())  # as if it could not be listed
        assert not groups.leave("runnerd-a-2")
    busy.unlink()
    (busy.parent / "cgroup.kill").unlink()
    assert groups.end("runnerd-a-2", patience=0.0)


def test_only_a_delegated_group_is_taken(tmp_path):
    """systemd's mark on our own group counts, for a daemon in its leaf too; without it there is none."""
    own = tmp_path / "self"
    marked = tmp_path / "system.slice/runnerd.service"

    def attribute(path, name):
        if path == marked and name == "user.delegate":
            return b"1"
        raise OSError("no such attribute")

    for path, expected in (
        ("/system.slice/runnerd.service", marked),
        ("/system.slice/runnerd.service/daemon", marked),
        ("/user.slice", None),
    ):
        own.write_text(f"4:memory:/elsewhere\n0::{path}\n")
        assert delegated(own=own, root=tmp_path, attribute=attribute) == expected
    assert delegated(own=tmp_path / "absent", root=tmp_path, attribute=attribute) is None
