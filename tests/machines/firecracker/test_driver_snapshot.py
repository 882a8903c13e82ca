"""Used machines under the strict fake of Firecracker, in several versions: kept, and gone back to."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from runnerd.machines.driver import Command, Exit, Machine, MachineLost, NoMachine, NotKept, Size, Window
from runnerd.machines.firecracker.driver import FirecrackerDriver
from runnerd.machines.images import FILES, Image, Part
from runnerd.machines.rewinding import RewindingMachine

from ..conftest import leased
from .test_driver import SIZE, run

Opened = Callable[..., AbstractAsyncContextManager[FirecrackerDriver]]
VERSIONS = ["1.14.4", "1.16.1", "1.17.0-dev"]
ROOM = 1 << 30
KEY = bytes(range(32))


async def heard(stream: trio.abc.Stream) -> None:
    """Answers whoever connects."""
    async with stream:
        await stream.send_all(b"host\n")


def ask(port: int) -> str:
    """A shell line that says what is heard at a port."""
    return f"exec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3"


@asynccontextmanager
async def used(driver: FirecrackerDriver) -> AsyncIterator[Machine]:
    """A machine whose disk and folder hold something."""
    machine = await leased(driver, "default", SIZE)
    await machine.put(f"{machine.paths.temp}/file", b"before")
    with driver._boxes[machine.id].monitor.jail.inside("upper").open("r+b") as disk:
        disk.seek(5 << 20)
        disk.write(b"on the disk")
    yield machine
    await machine.destroy()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_used_machine_is_kept_and_gone_back_to(opened: Opened, tmp_path: Path, version: str) -> None:
    """It goes on behind a new connection; its copy has files and disk of then, and an identity of its own."""
    async with opened(version) as driver, used(driver) as machine:
        for step in ("1", "2"):  # a reset of the vsock is no reason against another
            await machine.snapshot(tmp_path / "kept" / step, key=None, limit=ROOM)
            ended, said = await run(machine, "echo goes on")
            assert (ended.success, said) == (True, "goes on\n")
            await machine.put(f"{machine.paths.temp}/file", b"after")
        assert not machine.lost.is_set()
        assert sorted(os.listdir(tmp_path / "kept")) == ["1", "2"]
        assert sorted(os.listdir(tmp_path / "kept/1")) == ["disk", "memory", "snapshot.json", "state"]
        assert (tmp_path / "kept/1/memory").stat().st_size < 4 << 20  # of 256 MiB: what is zero is not kept

        for step, content in (("1", b"before"), ("2", b"after"), ("1", b"before")):
            copy = await driver.restore(tmp_path / "kept" / step, key=None)
            identity = await copy.thaw()
            await copy.lease()
            assert identity != machine.identity
            jail = driver._boxes[copy.id].monitor.jail
            (found,) = (jail.folder / "machine").rglob("file")
            assert found.read_bytes() == content
            with jail.inside("upper").open("rb") as disk:
                disk.seek(5 << 20)
                assert disk.read(11) == b"on the disk"
            assert not jail.inside("memory").exists()  # loaded: nobody needs its name
            assert (await run(copy, "true"))[0].success
            await copy.snapshot(tmp_path / "kept/of-copy", key=None, limit=ROOM)
            await copy.destroy()


async def test_offered_ports_stay_offered(opened: Opened, tmp_path: Path) -> None:
    """In the machine that goes on, and in the one that was gone back to."""
    port = 8080
    async with opened() as driver, used(driver) as machine:

        async def swap(old: Machine, kept: Path) -> Machine:
            await old.destroy()
            copy = await driver.restore(kept, key=None)
            await copy.thaw()
            return copy

        rewinding = RewindingMachine(machine, swap)
        await rewinding.listen(port, heard)
        await rewinding.snapshot(tmp_path / "kept", key=None, limit=ROOM)
        bash = f"bash -c '{ask(port)}'"
        assert (await run(rewinding, bash))[1] == "host\n"
        await rewinding.back(tmp_path / "kept")
        await rewinding.lease()
        assert rewinding.id != machine.id
        assert (await run(rewinding, bash))[1] == "host\n"
        await rewinding.destroy()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says of all folders whether they are in memory."""

    def be(so: bool) -> None:
        monkeypatch.setattr("runnerd.machines.disks.in_memory", lambda folder: so)

    return be


async def test_secrets_do_not_reach_a_disk_in_plain(
    opened: Opened, tmp_path: Path, in_memory: Callable[[bool], None]
) -> None:
    """Firecracker would write its memory there: the machine goes on and is not kept, and none is restored."""
    async with opened() as driver, used(driver) as machine:
        in_memory(False)
        stopped: list[object] = []
        driver._boxes[machine.id]._line.loosen = lambda: stopped.append(1)  # type: ignore[method-assign]
        with pytest.raises(NotKept, match=r"memory to a disk in plain, for .*/jails is no tmpfs"):
            await machine.snapshot(tmp_path / "kept/1", key=KEY, limit=ROOM)
        assert not stopped
        assert os.listdir(tmp_path / "kept") == []
        del driver._boxes[machine.id]._line.loosen
        in_memory(True)
        await machine.snapshot(tmp_path / "kept/1", key=KEY, limit=ROOM)
        in_memory(False)
        with pytest.raises(NoMachine, match="memory to a disk in plain"):
            await driver.restore(tmp_path / "kept/1", key=KEY)
        assert len(list(driver._jails.glob("firecracker/*"))) == 1


def command_line(pid: int) -> list[str]:
    """What a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_what_lies_in_memory_counts_as_memory(
    opened: Opened, short: Path, in_memory: Callable[[bool], None]
) -> None:
    """A machine may write its disk and its snapshot there without being ended for it."""
    bounds = []
    for so in (False, True):
        in_memory(so)
        async with opened(cgroup="runnerd") as driver, used(driver) as machine:
            words = command_line(driver._boxes[machine.id].monitor.pid)
            bounds.append(next(word for word in words if word.startswith("memory.max=")))
    assert bounds == [f"memory.max={mib << 20}" for mib in (256 + 16, 2 * 256 + 16 + 16)]


async def test_kept_with_a_key(opened: Opened, tmp_path: Path, in_memory: Callable[[bool], None]) -> None:
    """Nothing of memory, devices and disk is readable without the key, and nothing is restored without it."""
    in_memory(True)
    async with opened() as driver, used(driver) as machine:
        await machine.snapshot(tmp_path / "sealed", key=KEY, limit=ROOM)
        for name in ("disk", "memory", "state"):
            data = (tmp_path / "sealed" / name).read_bytes()
            assert not any(word in data for word in (b"on the disk", b"before", b"drives"))
        for key, reason in ((None, "its key is not there"), (bytes(32), "another key")):
            with pytest.raises(NoMachine, match=reason):
                await driver.restore(tmp_path / "sealed", key=key)
        copy = await driver.restore(tmp_path / "sealed", key=KEY)
        await copy.thaw()
        await copy.destroy()
        assert [each.id for each in driver._boxes.values()] == [machine.id]
        assert len(list(driver._jails.glob("firecracker/*"))) == 1


async def test_what_is_not_kept_costs_nothing(opened: Opened, short: Path, tmp_path: Path) -> None:
    """Too large, refused by Firecracker or under way: the machine goes on and no file is left."""
    async with opened("1.17.0-dev") as driver, used(driver) as machine:
        with pytest.raises(NotKept, match="larger than there is room for"):
            await machine.snapshot(tmp_path / "kept/1", key=None, limit=100)
        (short / "s/jails/fault").write_text("create")
        with pytest.raises(NotKept, match="No space left on device"):
            await machine.snapshot(tmp_path / "kept/2", key=None, limit=ROOM)
        (short / "s/jails/fault").unlink()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, machine, f"echo >{machine.paths.temp}/up; sleep 600")
            while True:
                try:
                    await machine.get(f"{machine.paths.temp}/up", limit=9)
                    break
                except FileNotFoundError:
                    await trio.sleep(0.01)
            with pytest.raises(NotKept, match="still under way"):
                await machine.snapshot(tmp_path / "kept/3", key=None, limit=ROOM)
            nursery.cancel_scope.cancel()
        assert os.listdir(tmp_path / "kept") == []
        root = driver._boxes[machine.id].monitor.jail.root
        assert not [name for name in os.listdir(root) if name.startswith("kept")]
        await machine.snapshot(tmp_path / "kept/4", key=None, limit=ROOM)
        assert (await run(machine, "true"))[0].success


async def test_a_cancelled_snapshot_leaves_the_machine_as_it_was(
    opened: Opened, short: Path, tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    """The machine stands still until Firecracker has written, goes on, and nothing is kept."""
    async with opened() as driver, used(driver) as machine:
        fault = short / "s/jails/fault"
        fault.write_text("slow")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(machine.snapshot, tmp_path / "kept/1", key=None, limit=ROOM))
                await eventually((short / "s/jails/creating").exists, 20)
                scope.cancel()
                fault.unlink()
        assert scope.cancelled_caught
        assert os.listdir(tmp_path / "kept") == []
        assert (await run(machine, "true"))[0].success
        await machine.snapshot(tmp_path / "kept/1", key=None, limit=ROOM)


@pytest.mark.parametrize("fault", ["create", "dumb"])
async def test_a_machine_that_does_not_go_on_is_lost(
    opened: Opened, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """In 1.16.1 a machine that was paused for nothing hears nobody again: that is said, and no job hangs."""
    monkeypatch.setattr("runnerd.machines.firecracker.box.AWAKE", 0.5)
    async with opened("1.16.1") as driver, used(driver) as machine:
        (short / "s/jails/fault").write_text(fault)
        with pytest.raises(MachineLost, match=r"did not answer within 0\.5 s after it was stopped"):
            await machine.snapshot(tmp_path / "kept", key=None, limit=ROOM)
        assert machine.lost.is_set()
        assert not (tmp_path / "kept").exists()


async def test_a_firecracker_that_dies_meanwhile_is_a_lost_machine(
    opened: Opened, short: Path, tmp_path: Path
) -> None:
    """The reason names what it was doing, and nothing is kept."""
    async with opened() as driver, used(driver) as machine:
        (short / "s/jails/fault").write_text("die")
        with pytest.raises(MachineLost, match="could not go on after it was stopped"):
            await machine.snapshot(tmp_path / "kept/1", key=None, limit=ROOM)
        assert machine.lost.is_set()
        assert os.listdir(tmp_path / "kept") == []


async def test_a_machine_of_an_earlier_generation_is_gone_back_to(
    opened: Opened, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the files of that generation are there; when they are gone the refusal is clear."""
    async with opened() as driver, used(driver) as machine:
        await machine.snapshot(tmp_path / "kept", key=None, limit=ROOM)
    earlier = images / "default" / ("d" * 64)
    earlier.mkdir()
    parts = {}
    for name in FILES:
        known = images / "default" / name
        (earlier / name).write_bytes(known.read_bytes() if known.exists() else b"")
        parts[name] = Part(size=(earlier / name).stat().st_size, sha256=name * 10, inputs="")
    (earlier / "manifest.json").write_bytes(msgspec.json.encode(parts))
    newer = Image(name="default", digest="e" * 64, path=images / "default", parts=parts)
    monkeypatch.setattr("runnerd.machines.images.current", lambda images, name: newer)
    async with opened() as driver:
        copy = await driver.restore(tmp_path / "kept", key=None)
        await copy.thaw()
        assert driver._boxes[copy.id]
        await copy.destroy()
        shutil.rmtree(earlier)
        with pytest.raises(NoMachine, match="the image, Firecracker or the host is not what"):
            await driver.restore(tmp_path / "kept", key=None)


async def test_harmed_or_foreign_snapshots_are_no_machines(opened: Opened, tmp_path: Path) -> None:
    """A state that was changed reaches no Firecracker, and nor does one of another version or driver."""
    async with opened() as driver, used(driver) as machine:
        await machine.snapshot(tmp_path / "kept", key=None, limit=ROOM)
        with pytest.raises(NoMachine, match="there is no snapshot in none"):
            await driver.restore(tmp_path / "none", key=None)
        whole = (tmp_path / "kept/state").read_bytes()
        (tmp_path / "kept/state").write_bytes(whole.replace(b"upper", b"lower"))
        with pytest.raises(NoMachine, match="state is not what was written"):
            await driver.restore(tmp_path / "kept", key=None)
        (tmp_path / "kept/state").write_bytes(whole)
        note = (tmp_path / "kept/snapshot.json").read_bytes()
        (tmp_path / "kept/snapshot.json").write_bytes(note.replace(b'"firecracker"', b'"qemu"'))
        with pytest.raises(NoMachine, match="not what the machine was made with"):
            await driver.restore(tmp_path / "kept", key=None)
        (tmp_path / "kept/snapshot.json").write_bytes(note)
        assert len(list(driver._jails.glob("firecracker/*"))) == 1
    async with opened("1.17.0-dev") as driver:
        with pytest.raises(NoMachine, match="Firecracker or the host is not what"):
            await driver.restore(tmp_path / "kept", key=None)
    async with opened() as driver:  # another daemon, of the version that kept it
        copy = await driver.restore(tmp_path / "kept", key=None)
        await copy.thaw()
        assert driver._boxes[copy.id]._size == Size(vcpus=1, memory=256, disk=16) == SIZE


class Person:
    """Types one line when the prompt is there."""

    window = Window(rows=31, columns=99)

    def __init__(self) -> None:
        self.screen = b""
        self.ready = trio.Event()
        self.lines = [b"cat runner/work/_temp/file; stty size; exit 5\n"]

    async def keys(self) -> bytes:
        await self.ready.wait()
        if not self.lines:
            await trio.sleep_forever()
        return self.lines.pop()

    async def show(self, data: bytes) -> None:
        self.screen += data
        if b"go> " in self.screen:
            self.ready.set()


async def test_a_person_has_a_terminal_in_the_copy(opened: Opened, tmp_path: Path) -> None:
    """The copy is the machine as it was, whatever became of that one; it has a terminal as any machine."""
    async with opened() as driver:
        async with used(driver) as machine:
            await machine.snapshot(tmp_path / "kept", key=None, limit=ROOM)
        copy = await driver.restore(tmp_path / "kept", key=None)
        await copy.thaw()
        await copy.lease()
        person = Person()
        command = Command(
            argv=("bash", "--norc"), env={"PATH": os.environ["PATH"], "PS1": "go> "}, cwd="/home"
        )
        with trio.fail_after(60):
            assert await copy.shell(command, person) == Exit(code=5)
        assert b"before" in person.screen
        assert b"31 99" in person.screen
        await copy.destroy()
