"""Starting monitors: real processes, with the privileges taken away and the limits set."""

import os
import random
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import trio

from runnerd.machines import cgroups, launcher
from runnerd.machines.launcher import LaunchFailed, Order, open_launcher, strays

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give processes other users")


def order(*argv, name="runnerd-test-1", descriptors=None, **fields) -> Order:
    """An order for a program."""
    return Order(name=name, argv=argv, descriptors=descriptors or {}, memory=64, **fields)


def status(pid: int) -> dict[str, list[str]]:
    """What the kernel says of a process."""
    lines = proc(pid, "status").splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}


def proc(pid: int, name: str) -> str:
    """One of the kernel's files on a process; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


@pytest.fixture
def started(eventually):
    """Waits until a process has become the program it was started for."""

    async def wait(pid: int, program: str = "/bin/sleep") -> None:
        await eventually(lambda: proc(pid, "cmdline").startswith(program))

    return wait


def popen(*argv: str, **options) -> subprocess.Popen:
    """A process that the launcher knows nothing of."""
    return subprocess.Popen(argv, **options)


async def test_descriptors_are_numbered_and_output_is_kept():
    """`@NAME@` becomes the number under which the process has that file."""
    read, write = os.pipe()
    file = os.memfd_create("file")
    os.write(file, b"in the file")
    async with open_launcher() as opened:
        ordered = order(
            "/bin/cat",
            "/proc/self/fd/@file@",
            descriptors={"file": file, "out": write},
            output="out",
            owned=("file",),
        )
        process = await opened.start(ordered)
        with trio.fail_after(30):
            assert await process.wait() == 0
        assert process.ended() == 0
        await process.stop()
        assert os.read(read, 100) == b"in the file"
        if os.geteuid() == 0:
            assert os.fstat(file).st_uid == process.uid
    for descriptor in (read, write, file):
        os.close(descriptor)


@root_only
async def test_a_monitor_has_a_user_of_its_own_and_no_rights(started):
    """Under root every process gets another user, no groups, no capabilities, no way to new ones."""
    async with open_launcher() as opened:
        first = await opened.start(order("/bin/sleep", "60", name="a"))
        second = await opened.start(order("/bin/sleep", "60", name="b"))
        for process in (first, second):
            await started(process.pid)
            said = status(process.pid)
            assert said["Uid"] == said["Gid"] == [str(process.uid)] * 4
            assert launcher.FIRST_UID <= process.uid < launcher.FIRST_UID + launcher.UIDS
            assert said["Groups"] == []
            assert said["NoNewPrivs"] == ["1"]
            assert {said[name][0].strip("0") for name in ("CapEff", "CapPrm", "CapInh", "CapBnd")} == {""}
        assert first.uid != second.uid


@root_only
async def test_the_memory_of_a_process_is_opened_only_once_it_has_no_rights(started, tmp_path):
    """Whoever gets it can write to it, and what takes the rights away is still root's."""
    lingers = tmp_path / "lingers"
    lingers.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    lingers.chmod(0o755)
    async with open_launcher() as opened:
        process = await opened.start(order("/bin/sleep", "60", name="a"))
        await started(process.pid)
        for descriptor in await process.open_memory():
            os.close(descriptor)
        opened._programs = (str(lingers), *opened._programs[1:])
        process = await opened.start(order("/bin/sleep", "60", name="b"))
        with pytest.raises(OSError, match="has not given up its rights"):
            await process.open_memory()


@root_only
async def test_a_user_that_some_process_has_is_not_given_again():
    """A process of another daemon in the same range makes its user unavailable."""
    taken = random.Random(1)
    uid = launcher.FIRST_UID + random.Random(1).randrange(launcher.UIDS)
    foreign = popen("/bin/sleep", "60", user=uid, group=uid, extra_groups=[])
    try:
        async with open_launcher(rng=taken) as opened:
            process = await opened.start(order("/bin/sleep", "60"))
            assert process.uid != uid
    finally:
        foreign.kill()
        foreign.wait()


async def test_without_root_a_monitor_runs_as_the_daemon_and_says_so(started):
    """The launcher tells that it cannot separate users; rights are still taken away."""
    async with open_launcher(root=False) as opened:
        assert not opened.separate
        process = await opened.start(order("/bin/sleep", "60"))
        await started(process.pid)
        assert process.uid == os.geteuid()
        assert status(process.pid)["NoNewPrivs"] == ["1"]


async def test_limits_are_set(started):
    """No core files, few descriptors, bounded address space, and first in line when memory runs out."""
    async with open_launcher() as opened:
        process = await opened.start(order("/bin/sleep", "60"))
        await started(process.pid)
        limits = proc(process.pid, "limits")
        rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
        assert rows["Max core file size"] == ["0", "0"]
        assert rows["Max open files"] == ["256", "256"]
        assert rows["Max address space"] == [str((64 + 2048) << 20)] * 2
        # Of a user that others have too it would count theirs as well.
        own = os.geteuid() == 0
        assert (rows["Max processes"] == ["256", "256"]) is own
        assert proc(process.pid, "oom_score_adj") == "500\n"
        assert os.getsid(process.pid) == process.pid


async def test_leaving_the_launcher_ends_its_processes():
    """Stop is safe twice and tells the signal; what is not stopped ends with the launcher."""
    async with open_launcher() as opened:
        first = await opened.start(order("/bin/sleep", "60", name="a"))
        second = await opened.start(order("/bin/sleep", "60", name="b"))
        with pytest.raises(LaunchFailed, match="already running"):
            await opened.start(order("/bin/sleep", "60", name="b"))
        assert first.ended() is None
        await first.stop()
        await first.stop()
        assert await first.wait() == -signal.SIGKILL
    assert proc(second.pid, "stat") == ""


async def test_stopping_twice_leaves_the_next_of_that_name_alone():
    """A machine that ended long ago cannot take the name, the user or the group from its successor."""
    left = []

    class Noting:
        def enter(self, name, pid, bounds):
            pass

        def outgrown(self, name):
            return False

        def end(self, name):
            left.append(name)
            return True

    async with open_launcher(groups=Noting()) as opened:
        first = await opened.start(order("/bin/sleep", "60", name="a"))
        await first.stop()
        await opened.start(order("/bin/sleep", "60", name="a"))
        await first.stop()
        assert left == ["a"]
        with pytest.raises(LaunchFailed, match="already running"):
            await opened.start(order("/bin/sleep", "60", name="a"))


async def test_a_group_that_cannot_be_entered_ends_the_process():
    """A machine whose memory cannot be bounded is not started."""

    class Locked:
        def enter(self, name, pid, bounds):
            raise PermissionError("read-only")

        def outgrown(self, name):
            return False

        def end(self, name):
            return True

    mark = f"runnerd-locked-{os.getpid()}-"
    async with open_launcher(groups=Locked()) as opened:
        with pytest.raises(LaunchFailed, match="control group: read-only"):
            await opened.start(order("/bin/sleep", "60", "-name", f"{mark}1"))
    assert strays(mark) == {}


async def test_a_process_that_cannot_be_watched_is_ended(monkeypatch):
    """On a host without a descriptor to spare nothing runs that nobody knows of."""
    begun = []

    def none_left(pid):
        begun.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    async with open_launcher() as opened:
        with pytest.raises(LaunchFailed, match="cannot be watched"):
            await opened.start(order("/bin/sleep", "60"))
    assert proc(begun[0], "stat") == ""


@root_only
@pytest.mark.skipif(os.path.exists("/dev/kvm"), reason="this host has KVM")
async def test_a_machine_for_kvm_without_its_device_is_refused():
    """That the device has gone is this machine's trouble and no other's."""
    async with open_launcher() as opened:
        with pytest.raises(LaunchFailed, match="/dev/kvm"):
            await opened.start(order("/bin/sleep", "60", kvm=True))


async def test_nothing_runs_before_it_is_in_its_group():
    """Until the group is entered, nothing of what was ordered runs; then its input is empty."""
    seen = []

    class Watching:
        def enter(self, name, pid, bounds):
            time.sleep(0.05)
            seen.append(proc(pid, "cmdline").split("\0")[0])
            assert select.select([reading], [], [], 0) == ([], [], [])

        def outgrown(self, name):
            return False

        def end(self, name):
            return True

    reading, writing = os.pipe()
    async with open_launcher(groups=Watching()) as opened:
        said = order("/bin/sh", "-c", "cat; echo here", output="out", descriptors={"out": writing})
        process = await opened.start(said)
        assert await process.wait() == 0
    assert seen == ["/bin/sh"]
    assert os.read(reading, 100) == b"here\n"
    os.close(reading)
    os.close(writing)


async def test_of_two_machines_of_one_name_one_is_started():
    """They would share a user and a group: the second is refused even while the first is being started."""
    outcomes = []

    async def start(opened):
        try:
            outcomes.append(await opened.start(order("/bin/sleep", "60", name="same")))
        except LaunchFailed as error:
            outcomes.append(str(error))

    async with open_launcher() as opened:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(start, opened)
        assert sorted(type(each).__name__ for each in outcomes) == ["_Process", "str"]


async def test_the_kernel_ends_what_takes_more_memory_than_its_group_has():
    """With a real control group, a process that outgrows it is killed, and the group goes with it."""
    name = f"runnerd-test-{os.getpid()}"
    if not os.access("/sys/fs/cgroup/memory", os.W_OK):
        pytest.skip("this host lends no group of a memory controller of version 1")
    groups = cgroups.usable(f"memory/{name}")
    assert groups is not None
    parents = cgroups.controllers(cgroups.ROOT / groups.path).values()
    try:
        async with open_launcher(groups=groups) as opened:
            eats = order(sys.executable, "-c", "print(len(bytearray(b'x') * (1 << 30)))", name="eats")
            process = await opened.start(eats)
            with trio.fail_after(30):
                assert await process.wait() == -signal.SIGKILL
            await process.stop()
            assert groups.left("eats") == []
    finally:
        for parent in parents:
            parent.rmdir()


async def test_a_killed_daemon_takes_its_monitors_along(eventually):
    """When the daemon dies by SIGKILL its monitors die too, though it could do nothing for that."""
    daemon = textwrap.dedent("""
        import sys, trio
        from trio._core import _thread_cache
        from runnerd.machines.launcher import Order, open_launcher
        assert _thread_cache.IDLE_TIMEOUT
        _thread_cache.IDLE_TIMEOUT = 0.2
        async def main():
            async with open_launcher() as opened:
                # It starts nothing: what is forked bears its parent's name until it is another program.
                argv = ("/usr/bin/env", "sh", "-c", "kill -STOP $$", "-name", sys.argv[1])
                process = await opened.start(Order(name="x", argv=argv, descriptors={}, memory=64))
                await trio.sleep(1)  # longer than an idle thread of trio's lives here
                print(process.pid, flush=True)
                await trio.sleep(60)
        trio.run(main)
    """)
    mark = f"runnerd-orphan-{os.getpid()}-"
    process = popen(sys.executable, "-c", daemon, f"{mark}1", stdout=subprocess.PIPE, text=True)
    try:
        pid = int(await trio.to_thread.run_sync(process.stdout.readline))
        assert strays(mark) == {pid: f"{mark}1"}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    await eventually(lambda: not strays(mark))


def test_strays_are_told_by_their_name_argument(tmp_path):
    """Only a `-name` argument that begins with the marker counts."""
    for pid, words in {
        "10": ["qemu", "-name", "runnerd-a-1"],
        "11": ["qemu", "-name", "runnerd-b-1"],
        "12": ["vi", "runnerd-a-1"],
        "13": ["qemu", "-name"],
        "self": ["qemu", "-name", "runnerd-a-2"],
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    (tmp_path / "14").mkdir()
    assert strays("runnerd-a-", proc=tmp_path) == {10: "runnerd-a-1"}


def test_born_tells_a_process_from_its_successor():
    """The start time is the same as long as the process lives, and None when it is gone."""
    process = subprocess.Popen(["/bin/sleep", "60"])
    born = launcher.born(process.pid)
    assert born is not None
    assert born == launcher.born(process.pid)
    process.kill()
    process.wait()
    assert launcher.born(process.pid) is None
