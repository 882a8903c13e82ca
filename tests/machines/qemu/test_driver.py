"""The default driver with real machines: what isolates them, what makes each its own, how they end."""

from __future__ import annotations

import io
import os
import re
import signal
import tarfile
import textwrap
from pathlib import Path

import pytest
import trio

from runnerd.machines import cgroups, reaper
from runnerd.machines.driver import Command, Exit, MachineLost, NoMachine, Size, Template
from runnerd.machines.journal import MachineNote
from runnerd.machines.launcher import born, open_launcher, strays
from runnerd.machines.qemu.box import LAYOUT
from runnerd.machines.qemu.driver import QemuDriver, open_qemu_driver
from runnerd.machines.remote import AgentMachine

from ...conftest import PATIENT, VM_SIZE
from .conftest import NAMED

pytestmark = pytest.mark.vm

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/runner"}


TAKE_THE_PORT = """
import ctypes, os
libc, agent = ctypes.CDLL(None), os.pidfd_open(1)
for number in range(3, 64):
    copy = libc.syscall(438, agent, number, 0)  # pidfd_getfd
    if copy >= 0 and "vport" in os.readlink(f"/proc/self/fd/{copy}"):
        os.write(copy, bytes(70000))
"""


def read(path: str) -> str:
    """A file of this host."""
    return Path(path).read_text()


async def run(machine: AgentMachine, script: str, **fields) -> tuple[Exit, str]:
    """Run a shell script in a machine; its exit and what it printed."""
    said = bytearray()

    async def keep(stream: str, data: bytes) -> None:
        said.extend(data)

    command = Command(argv=("/bin/bash", "-c", script), env=ENVIRONMENT, **fields)
    with trio.fail_after(300):
        return await machine.exec(command, keep), said.decode()


async def fresh(driver: QemuDriver, template: Template) -> AgentMachine:
    """A clone that passed the thaw gate and is leased."""
    machine = await driver.clone(template)
    await machine.thaw()
    await machine.lease()
    return machine


def process_of(driver: QemuDriver, machine: AgentMachine):
    """The QEMU process of a machine."""
    return driver._machines.boxes[machine.id].vm.process


async def test_a_clone_runs_a_job_and_leaves_nothing(vm_driver, vm_template, tmp_path):
    """Commands run as the job's user, QEMU under a user of its own; destroyed, no process or file is left."""
    machine = await fresh(vm_driver, vm_template)
    done, said = await run(machine, "id -u; echo hello; sudo id -u; echo oops >&2; exit 3")
    assert (done, said) == (Exit(code=3), "1001\nhello\n0\noops\n")
    # Nor does QEMU complain of how it was started, as it does of what it will not take much longer.
    assert not [line for line in machine.console_end() if "qemu" in line]
    vmm = process_of(vm_driver, machine)
    said = read(f"/proc/{vmm.pid}/status")
    assert "Seccomp:\t2\n" in said
    assert "NoNewPrivs:\t1\n" in said
    if os.geteuid() == 0:
        assert os.stat(f"/proc/{vmm.pid}").st_uid == vmm.uid != 0
        assert "CapBnd:\t0000000000000000\n" in said
    assert os.readlink(f"/proc/{vmm.pid}/cwd") == "/"
    await machine.destroy()
    await machine.destroy()
    assert machine.lost.is_set()
    assert born(vmm.pid) is None
    assert strays(reaper.mark(tmp_path)) == {}
    assert os.listdir(tmp_path / "machines") == []
    with pytest.raises(MachineLost):
        await run(machine, "true")


async def test_files_and_archives_go_in_and_out(vm_driver, vm_template, tmp_path):
    """put and get carry bytes; unpack fills a folder through the job disk, with files of the job's user."""
    machine = await fresh(vm_driver, vm_template)
    data = os.urandom(300_000)
    await machine.put("/home/runner/work/deep/file", data, mode=0o600)
    assert await machine.get("/home/runner/work/deep/file", limit=len(data)) == data
    for name in ("first", "second"):
        archive = tmp_path / "work.tar"
        with tarfile.open(archive, "w") as tar:
            for number in range(50):
                info = tarfile.TarInfo(f"folder/{name}{number}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        with trio.fail_after(300):
            await machine.unpack(archive, f"/home/runner/work/{name}")
        done, said = await run(
            machine, f"cd /home/runner/work/{name}/folder; cat * | wc -c; stat -c %U {name}7; ls | wc -l"
        )
        assert (done.code, said.split()) == (0, [str(50 * len(data)), "runner", "50"])
    await machine.destroy()


async def test_a_place_is_laid_out_for_the_jobs_user(vm_driver, vm_template):
    """Files are the job user's, programs are looked for in the job's root, and no link leads out of it."""
    machine = await fresh(vm_driver, vm_template)
    await run(
        machine, "cd /tmp && ln -s /run/agent.pyz out && ln -s /proc/1/root/run/agent.pyz magic && mkdir l"
    )
    folder = f"{machine.paths.work}/a/b"
    found = await machine.lay_out(
        [folder],
        ["/tmp/f/1", "/tmp/f/2", "/tmp/out"],
        programs=["bash", "python3", "sh", "pwsh", "out", "magic", "l"],
        search="/opt/none:/usr/local/bin:/usr/bin:/tmp",
    )
    assert found == {name: f"/usr/bin/{name}" for name in ("bash", "python3", "sh")}
    _, said = await run(machine, f"stat -c '%U %a %s %F' /tmp/f/1 /tmp/f/2 /tmp/out /tmp/f {folder}")
    assert said.splitlines()[:3] == ["runner 644 0 regular empty file"] * 3
    assert [line.split()[:2] for line in said.splitlines()[3:]] == [["runner", "755"]] * 2
    await machine.put("/tmp/f/1", b"x" * 70_000)
    read = await machine.get_all({"/tmp/f/1": 70_000, "/tmp/f/2": 0, "/tmp/magic": 10, "/tmp/none": 1})
    assert (read["/tmp/f/1"], read["/tmp/f/2"]) == (b"x" * 70_000, b"")
    assert str(read["/tmp/magic"]) == "not a regular file"
    assert isinstance(read["/tmp/none"], FileNotFoundError)
    await machine.destroy()


async def test_a_machine_that_waits_rehearses_and_leaves_nothing(vm_driver, vm_template):
    """It has the files and processes of a machine that was leased at once and rehearsed nothing."""
    look = "find /tmp /var/tmp /dev/shm /run $HOME | sort; ps -o comm --ppid 2 -p 2 --deselect | sort"
    leased_at_once = await fresh(vm_driver, vm_template)
    waiting = await vm_driver.clone(vm_template)
    await waiting.thaw()
    await trio.sleep(1.5)
    await waiting.lease()
    assert (await run(waiting, look))[1] == (await run(leased_at_once, look))[1]
    await waiting.destroy()
    await leased_at_once.destroy()


async def test_what_a_job_installs_lies_on_the_disk(vm_driver, vm_template):
    """Where apt, pip and npm write, a job may write more than there is memory, up to the disk's end."""
    machine = await fresh(vm_driver, vm_template)
    script = """
    set -e
    for folder in /var/lib/apt /usr/lib/python3 /usr/local/lib; do
        sudo mkdir -p $folder && sudo dd if=/dev/zero of=$folder/big bs=1M count=100 status=none
    done
    dd if=/dev/zero of=$HOME/big bs=1M count=20 status=none
    awk '/MemTotal/ {print ($2 < 300000)}' /proc/meminfo
    cat /sys/kernel/mm/lru_gen/min_ttl_ms  # else the kernel may kill who writes files
    ! sudo dd if=/dev/zero of=/var/big bs=1M count=300 status=none 2>/dev/null
    """
    done, said = await run(machine, script)
    assert (done, said) == (Exit(code=0, disk_full=True), "1\n0\n")
    await machine.destroy()


async def test_slow_hunger_for_memory_ends(vm_driver, vm_template):
    """A job that takes more and more memory is killed when there is none, and the machine can be used on."""
    machine = await fresh(vm_driver, vm_template)
    script = """
    exec 2>&1  # one stream, for of two it is not told which came first
    python3 -c 'import time
    kept = []
    while True:
        kept.append(bytes(1000) * 1000)
        time.sleep(0.02)'
    echo $?
    """
    done, said = await run(machine, textwrap.dedent(script))
    assert (done, said.splitlines()[-1]) == (Exit(code=0, out_of_memory=True), "137")
    calm = "until grep -x 0 /sys/kernel/mm/lru_gen/min_ttl_ms; do sleep 0.05; done"
    assert await run(machine, calm) == (Exit(code=0), "0\n")
    await machine.destroy()


async def test_every_clone_is_its_own_machine(vm_driver, vm_template):
    """Boot id, machine id and hostname differ from clone to clone and from the host's, as reported."""
    seen = set()
    script = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; date +%s; cat /etc/hosts"
    for _ in range(2):
        machine = await fresh(vm_driver, vm_template)
        asked = vm_driver._clock()
        done, said = await run(machine, script)
        boot, unique, name, now, *hosts = said.splitlines()
        assert done.success
        assert (boot, unique, name) == (
            machine.identity.boot_id,
            machine.identity.machine_id,
            machine.identity.hostname,
        )
        assert asked - 5 < int(now) < vm_driver._clock() + 5
        assert any(name in line for line in hosts)
        seen |= {boot, unique, name}
        await machine.destroy()
    assert len(seen) == 6
    assert read("/proc/sys/kernel/random/boot_id").strip() not in seen


async def drawn(vm_driver, vm_template, *, gate: bool) -> list[str]:
    """What a fresh clone draws: bytes of urandom and a UUID of the kernel."""
    machine = await vm_driver.clone(vm_template)
    if gate:
        await machine.thaw()
    done, said = await run(machine, "head -c 32 /dev/urandom | base64; cat /proc/sys/kernel/random/uuid")
    assert done.success
    await machine.destroy()
    return said.split()


async def test_clones_share_no_randomness(vm_driver, vm_template):
    """After the thaw gate no two clones read the same random bytes."""
    first, second = [await drawn(vm_driver, vm_template, gate=True) for _ in range(2)]
    assert not set(first) & set(second)


async def test_without_the_thaw_gate_clones_share_their_randomness(vm_driver, vm_template):
    """What the gate is for: clones that skip it draw the same first bytes.

    Each kernel takes new randomness by itself at some time, so some may differ; two agree.
    """
    seen: set[str] = set()
    for _ in range(12):
        first = (await drawn(vm_driver, vm_template, gate=False))[0]
        if first in seen:
            return
        seen.add(first)
    pytest.fail(f"no two of {len(seen)} drew the same")


async def test_a_killed_monitor_is_a_lost_machine(vm_driver, vm_template):
    """When QEMU dies under a command, the command raises MachineLost and the reason names the signal."""
    machine = await fresh(vm_driver, vm_template)
    other = await fresh(vm_driver, vm_template)
    async with trio.open_nursery() as nursery:

        async def kill() -> None:
            await trio.sleep(0.3)
            os.kill(process_of(vm_driver, machine).pid, signal.SIGKILL)

        nursery.start_soon(kill)
        with pytest.raises(MachineLost):
            await run(machine, "sleep 60")
    assert re.search(NAMED, machine.reason)
    assert (await run(other, "echo still here"))[1] == "still here\n"
    await machine.destroy()
    await other.destroy()


async def test_a_panic_is_told(vm_driver, vm_template):
    """A guest whose kernel panics is lost, and the reason says that it panicked, with the kernel's words."""
    machine = await fresh(vm_driver, vm_template)
    with pytest.raises(MachineLost):
        await run(machine, "echo c > /proc/sysrq-trigger; sleep 60", user=0)
    assert "panicked" in machine.reason
    assert "sysrq triggered crash" in machine.reason
    await machine.destroy()


async def test_garbage_from_the_guest_ends_that_machine_only(vm_driver, vm_template):
    """A guest that writes garbage to its channel loses its machine; its neighbour and the driver go on."""
    machine = await fresh(vm_driver, vm_template)
    other = await fresh(vm_driver, vm_template)
    # Root in the machine takes a copy of the agent's own port and writes into it.
    script = "python3 -c '" + TAKE_THE_PORT + "'; sleep 60"
    with pytest.raises(MachineLost):
        await run(machine, script, user=0)
    assert "protocol" in machine.reason
    assert (await run(other, "echo still here"))[1] == "still here\n"
    await machine.destroy()
    await other.destroy()


async def test_there_is_no_network_card(vm_driver, vm_template):
    """A machine has the loopback interface, up, and nothing else."""
    machine = await fresh(vm_driver, vm_template)
    _, said = await run(machine, "ls /sys/class/net; cat /sys/class/net/lo/flags")
    assert said.split() == ["lo", "0x9"]
    await machine.destroy()


async def test_a_clone_that_is_not_ready_in_time_is_tried_once_more(vm_image, state_directory, tmp_path):
    """A deadline that cannot be met ends in NoMachine after two tries, and leaves nothing running."""
    notes: list[MachineNote] = []

    async def journal(note: MachineNote) -> None:
        notes.append(note)

    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    async with open_qemu_driver(state=tmp_path, **folders, journal=journal, ready_timeout=0.001) as driver:
        template = await driver.build_template("default", Size(vcpus=1, memory=256, disk=512))
        notes.clear()
        with pytest.raises(NoMachine, match="got ready"):
            await driver.clone(template)
        assert [note.state for note in notes] == ["starting", "running", "gone"] * 2
        assert notes[1].pid
        assert notes[1].started > 0
        assert notes[0].id == notes[1].id == notes[2].id
        assert strays(reaper.mark(tmp_path)) == {}


async def test_a_template_is_found_again_and_rebuilt_when_harmed(state_directory, own_template, tmp_path):
    """A harmed template is noticed, made anew and saved, and works; a later driver loads what was saved."""
    spoil(own_template / "memory")
    folders = {"images": state_directory / "images", "snapshots": own_template.parent}
    saved = [os.stat(own_template / "memory").st_ino]
    for number in range(2):
        async with open_qemu_driver(state=tmp_path / f"{number}", **folders, **PATIENT) as driver:
            template = await driver.build_template("default", VM_SIZE)
            assert template.path == own_template
            saved.append(os.stat(own_template / "memory").st_ino)
            machine = await fresh(driver, template)
            assert (await run(machine, "echo $((6 * 7))"))[1] == "42\n"
    harmed, anew, found = saved
    assert harmed != anew == found


def spoil(path: Path) -> None:
    """Change a byte in the middle of a saved memory."""
    with path.open("r+b") as file:
        file.seek(16 << 20)  # where the kernel lies
        byte = file.read(1)[0]
        file.seek(16 << 20)
        file.write(bytes([byte ^ 1]))


async def test_what_a_crashed_daemon_left_is_reaped(vm_driver, vm_template, tmp_path):
    """Machines of this state directory that no driver knows are ended; known ones and others' are not."""
    machine = await fresh(vm_driver, vm_template)
    lost = await fresh(vm_driver, vm_template)
    # As after a crash: the process lives, and nobody knows of it.
    vm_driver._machines.names.discard(reaper.mark(tmp_path) + lost.id)
    pid = process_of(vm_driver, lost).pid
    assert reaper.reap(reaper.mark(tmp_path / "elsewhere")) == []
    assert await vm_driver.adopt_or_reap() == 1
    assert not strays(reaper.mark(tmp_path)).keys() & {pid}
    with trio.fail_after(30):
        await lost.lost.wait()
    assert (await run(machine, "echo still here"))[1] == "still here\n"
    assert await vm_driver.adopt_or_reap() == 0


async def test_a_journal_that_fails_holds_no_machine(vm_image, state_directory, tmp_path):
    """A note that cannot be written stops a start; at the end of a machine it stops nothing."""
    failing = set()

    async def journal(note: MachineNote) -> None:
        if note.state in failing:
            raise OSError("disk full")

    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    async with open_qemu_driver(state=tmp_path, **folders, journal=journal, **PATIENT) as driver:
        template = await driver.build_template("default", Size(vcpus=1, memory=256, disk=512))
        failing |= {"gone"}
        machine = await driver.clone(template)
        await machine.destroy()
        for state in ("starting", "running"):
            failing |= {state}
            with pytest.raises(NoMachine, match="disk full"):
                await driver.clone(template)
        assert strays(reaper.mark(tmp_path)) == {}


async def test_an_unprivileged_daemon_says_what_it_costs(vm_image, state_directory, tmp_path):
    """Without users of their own machines still work, and the driver says what that means."""
    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    async with (
        open_launcher(root=False) as launcher,
        open_qemu_driver(state=tmp_path, **folders, launcher=launcher, **PATIENT) as driver,
    ):
        template = await driver.build_template("default", Size(vcpus=1, memory=256, disk=512))
        machine = await fresh(driver, template)
        assert (await run(machine, "id -u"))[1] == "1001\n"
        assert process_of(driver, machine).uid == os.geteuid()
        assert "as the daemon's own user" in driver.capabilities.notice


async def test_all_memory_can_be_used_in_a_control_group(vm_image, state_directory, tmp_path):
    """What a clone is the first to touch of its template's memory is no reason to end it."""
    name = f"memory/runnerd-test-{os.getpid()}"
    try:
        cgroups.usable(name)
    except OSError:
        pytest.skip("this host lends no group of a memory controller of version 1")
    places = cgroups.controllers(cgroups.ROOT / name).values()
    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    try:
        async with open_qemu_driver(state=tmp_path, **folders, cgroup=name, **PATIENT) as driver:
            template = await driver.build_template("default", Size(vcpus=1, memory=512, disk=64))
            machine = await fresh(driver, template)
            done, _ = await run(machine, "python3 -c 'len(bytearray(b\"x\") * (360 << 20))'")
            assert done == Exit(code=0)
            (used,) = (cgroups.ROOT / name).glob("runnerd-*/memory.max_usage_in_bytes")
            # More than the machine itself may have: the bound did not hold by chance.
            assert int(await trio.to_thread.run_sync(used.read_text)) > (512 + driver.overhead) << 20
            await machine.destroy()
    finally:
        for folder in places:
            folder.rmdir()


async def test_a_machine_can_be_a_pc(vm_image, state_directory, tmp_path):
    """On the board with PCI a job runs with files and disks as ever, no network card, and a panic is told."""
    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    async with open_qemu_driver(state=tmp_path, **folders, board="q35", **PATIENT) as driver:
        template = await driver.build_template("default", Size(vcpus=1, memory=256, disk=512))
        machine = await fresh(driver, template)
        await machine.put("/home/runner/work/in", b"x" * 100_000)
        done, said = await run(
            machine,
            "ls /sys/class/net; wc -c <~/work/in; df -P / | awk 'NR == 2 {print ($2 > 400000)}';"
            "cat /sys/bus/pci/devices/*/class | sort | uniq -c",
        )
        words = said.split()
        assert (done.code, words[:3]) == (0, ["lo", "100000", "1"])
        classes = dict(zip(words[4::2], map(int, words[3::2]), strict=True))
        assert classes["0x010000"] == 4  # disks
        assert not [name for name in classes if name.startswith("0x02")]  # network cards
        await machine.snapshot(tmp_path / "kept", key=None, limit=1 << 30)
        with pytest.raises(MachineLost):
            await run(machine, "echo c > /proc/sysrq-trigger; sleep 60", user=0)
        assert "panicked" in machine.reason
        await machine.destroy()
        copy = await driver.restore(tmp_path / "kept", key=None)
        await copy.thaw()
        assert (await run(copy, "wc -c <~/work/in"))[1] == "100000\n"


async def test_without_an_image_there_is_no_machine(tmp_path):
    """A driver without images says which one is missing, and how it is built."""
    async with open_qemu_driver(state=tmp_path) as driver:
        with pytest.raises(NoMachine, match=r"no image 'default' .* `runnerd image build default`"):
            await driver.build_template("default", Size())
        assert driver.capabilities.isolated
    assert LAYOUT.upper == "serial:upper"


async def test_an_unknown_accelerator_is_refused(tmp_path):
    """Only auto, kvm and tcg are accelerators."""
    with pytest.raises(ValueError, match="use auto, kvm or tcg"):
        async with open_qemu_driver(state=tmp_path, accelerator="hvf"):
            pass
