"""Machines under a strict fake of Firecracker, with real agents in them.

`runnerd doctor --selftest` is what meets a real one, on hosts that have it; a test runs it there.
"""

from __future__ import annotations

import io
import os
import signal
import tarfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from runnerd.machines.driver import Command, Exit, Machine, MachineLost, NoMachine, Size
from runnerd.machines.firecracker import monitor
from runnerd.machines.firecracker.driver import FirecrackerDriver, open_firecracker_driver
from runnerd.machines.journal import MachineNote

from ..conftest import leased

Opened = Callable[..., AbstractAsyncContextManager[FirecrackerDriver]]
ENV = {"PATH": os.environ["PATH"]}
SIZE = Size(vcpus=1, memory=256, disk=16)


async def run(machine: Machine, script: str) -> tuple[Exit, str]:
    said = bytearray()

    async def hear(_kind: str, data: bytes) -> None:
        said.extend(data)

    with trio.fail_after(30):
        return await machine.exec(Command(argv=("sh", "-c", script), env=ENV), hear), said.decode()


@pytest.mark.parametrize("version", ["1.14.4", "1.16.1", "1.17.0-dev"])
async def test_life_of_a_machine(opened: Opened, short: Path, version: str) -> None:
    """From a template, frozen once, come machines that run commands and leave nothing behind."""
    notes: list[tuple[str, str]] = []

    async def journal(note: MachineNote) -> None:
        notes.append((note.id, note.state))

    async with opened(version, journal=journal) as driver:
        machine = await leased(driver, "default", SIZE)
        assert await run(machine, "echo hello; exit 3") == (Exit(code=3), "hello\n")
        again = await leased(driver, "default", SIZE)
        assert again.identity != machine.identity
        await machine.put(f"{machine.paths.temp}/file", b"data")
        assert await machine.get(f"{machine.paths.temp}/file", limit=9) == b"data"
        jails = list((short / "s/jails/firecracker").iterdir())
        assert len(jails) == 2
        pids = [int((each / "root/firecracker.pid").read_text()) for each in jails]
        await machine.destroy()
        await machine.destroy()
        assert machine.lost.is_set()
    assert [pid for pid in pids if _runs(pid)] == []
    assert list((short / "s/jails/firecracker").iterdir()) == []
    ids = {id for id, _ in notes}
    assert len(ids) == 3  # the template's own machine, and two
    assert sorted(notes) == sorted((id, state) for id in ids for state in ("starting", "running", "gone"))


def _runs(pid: int) -> bool:
    """Whether a process is there; one that has ended and waits for its parent is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_template_is_made_once(opened: Opened, short: Path) -> None:
    """A frozen machine is found again by the next daemon, and made anew for another size or when harmed."""
    for _ in range(2):
        async with opened() as driver:
            path = (await driver.build_template("default", SIZE)).path
            assert path is not None
            stamp = (path / "template.json").stat().st_mtime_ns
            await driver.build_template("default", SIZE)
            assert (path / "template.json").stat().st_mtime_ns == stamp
            other = await driver.build_template("default", Size(vcpus=2, memory=256, disk=16))
            assert other.path != path
    (path / "state").chmod(0o644)
    (path / "state").write_text("harmed")
    async with opened() as driver:
        await leased(driver, "default", SIZE)
        assert (path / "state").read_text() != "harmed"


@pytest.mark.parametrize("version", ["1.10.1", "1.12.1", "1.13.1", "1.14.3", "1.15.0"])
async def test_versions_with_known_escapes_are_refused(opened: Opened, version: str) -> None:
    """Nothing is started with a version that a guest can break out of."""
    with pytest.raises(NoMachine, match=r"CVE-2026-5747\); install 1\.16\.1"):
        async with opened(version):
            pass


async def test_host_that_cannot_is_told_the_cure(short: Path) -> None:
    """Without KVM, root or the programs the driver says which, and nothing weaker is taken."""
    with pytest.raises(NoMachine, match="cannot be used: it needs KVM"):
        async with open_firecracker_driver(state=short, obstacles=lambda: "it needs KVM, and there is none"):
            pass
    with pytest.raises(NoMachine, match=r"nonesuch-fc is not there: install Firecracker 1\.16\.1"):
        async with open_firecracker_driver(
            state=short, obstacles=lambda: "", programs=("nonesuch-fc", "nonesuch-jailer")
        ):
            pass


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("jailer", "the jailer ended with status 1: jailer: failed to create cgroup"),
        ("exec", "did not start: Firecracker ended; it said: .*Failed to exec into Firecracker"),
        ("late", r"the jailer ended with status 1: [^)]*out of luck"),
        ("deaf", r"its agent did not answer within 1 s"),
        ("panic", "its kernel panicked"),
        ("other version", "CVE-2026-5747"),
    ],
)
async def test_start_that_fails_leaves_nothing(opened: Opened, short: Path, fault: str, reason: str) -> None:
    """Whatever goes wrong is named, the second try included, and no jail stays."""
    seconds = 1.0 if fault == "deaf" else 30.0
    async with opened(ready_timeout=seconds, build_timeout=seconds) as driver:
        if fault != "deaf":
            await driver.build_template("default", SIZE)
        (short / "s/jails").mkdir(parents=True, exist_ok=True)
        (short / "s/jails/fault").write_text(fault)
        with pytest.raises(NoMachine, match=reason):
            await driver.clone(await driver.build_template("default", SIZE))
    left = short / "s/jails/firecracker"
    assert not left.exists() or list(left.iterdir()) == []
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and os.fsencode(short) in _command(pid)] == []


def _command(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


async def test_program_may_be_called_after_its_version(
    opened: Opened, short: Path, programs: Callable[[str], tuple[str, str]]
) -> None:
    """As in Firecracker's releases, with a link to it: the jailer names folder and file after what it finds,
    and a later daemon with another version reaps what is left there."""
    firecracker, jailer = programs("1.16.1")
    link = trio.Path(firecracker)
    await link.rename(short / "firecracker-v1.16.1-x86_64")
    await link.symlink_to("firecracker-v1.16.1-x86_64")
    async with opened(programs=(firecracker, jailer)) as killed:
        machine = await leased(killed, "default", SIZE)
        assert (await run(machine, "true"))[0].success
        assert (short / "s/jails/firecracker-v1.16.1-x86_64" / machine.id).is_dir()
        await link.unlink()
        async with opened() as driver:
            assert await driver.adopt_or_reap() == 1
            assert monitor.running(machine.id) == []
    assert list((short / "s/jails").glob("*/*")) == []


async def test_killed_firecracker_is_a_lost_machine(opened: Opened, short: Path) -> None:
    """A machine whose Firecracker dies is lost with what its console said, and only that one."""
    async with opened() as driver:
        machine, other = await leased(driver, "default", SIZE), await leased(driver, "default", SIZE)
        jail = short / "s/jails/firecracker" / machine.id
        (jail / "root/serial").write_text("last words\r\n")
        os.kill(int((jail / "root/firecracker.pid").read_text()), signal.SIGKILL)
        with trio.fail_after(20):
            await machine.lost.wait()
        assert machine.reason.endswith("(Firecracker ended; its console ended with: last words)")
        assert (await run(other, "true"))[0].success
        await machine.destroy()
        assert not jail.exists()


async def test_what_a_killed_daemon_left_is_reaped(opened: Opened, short: Path) -> None:
    """Jails without a machine of ours, and what runs in them, are gone; machines that live stay."""
    async with opened() as killed:
        left = await leased(killed, "default", SIZE)
        pid = int((short / "s/jails/firecracker" / left.id / "root/firecracker.pid").read_text())
        async with opened() as driver:
            mine = await leased(driver, "default", SIZE)
            assert await driver.adopt_or_reap() == 1
            assert await driver.adopt_or_reap() == 0
            assert not _runs(pid)
            assert monitor.running(left.id) == []
            assert (await run(mine, "true"))[0].success


async def test_archives_go_by_the_job_disk(opened: Opened, short: Path, tmp_path: Path) -> None:
    """The machine is told the device whose content the host has just written into the jail."""
    async with opened() as driver:
        machine = await leased(driver, "default", SIZE)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("empty"), io.BytesIO())
        await trio.Path(tmp_path / "a.tar").write_bytes(data.getvalue())
        box = driver._boxes[machine.id]
        assert await box.fill(tmp_path / "a.tar") == "/dev/vdd"
        written = await trio.Path(short / "s/jails/firecracker" / machine.id / "root/job").open("rb")
        async with written:
            assert await written.read(1024) == data.getvalue()[:1024]


async def test_absent_image_is_no_machine(opened: Opened) -> None:
    """The command that builds the image is in the sentence."""
    async with opened() as driver:
        with pytest.raises(NoMachine, match="build it with `runnerd image build other`"):
            await driver.build_template("other", SIZE)
        machine = await leased(driver, "default", SIZE)
        assert not machine.lost.is_set()
    with pytest.raises(MachineLost):
        await run(machine, "true")
