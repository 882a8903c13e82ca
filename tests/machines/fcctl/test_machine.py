"""A machine of the remote service: how it comes up, what is not let in, and that it is given back."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from runnerd.machines.driver import Command, Machine, MachineLost, Size, Window
from runnerd.machines.fcctl.driver import FcctlDriver

Opened = Callable[..., AbstractAsyncContextManager[FcctlDriver]]
Ready = Callable[[], Awaitable[Machine]]


async def asleep(driver: FcctlDriver) -> Machine:
    return await driver.clone(await driver.build_template("ubuntu", Size()))


async def test_files_and_folders(ready: Ready, tmp_path: Path, fake: Any) -> None:
    """A workspace is laid out, an archive unpacked, and files go in and out as with any machine."""
    machine = await ready()
    found = await machine.lay_out(
        [machine.paths.work],
        [f"{machine.paths.temp}/env"],
        programs=["bash", "nonesuch"],
        search="/bin:/usr/bin",
    )
    assert found["bash"] in ("/bin/bash", "/usr/bin/bash")
    assert "nonesuch" not in found
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("deep/file")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    await trio.Path(tmp_path / "a.tar").write_bytes(data.getvalue())
    await machine.unpack(tmp_path / "a.tar", f"{machine.paths.work}/R/R")
    assert await machine.get(f"{machine.paths.work}/R/R/deep/file", limit=3) == b"abc"
    assert await machine.get(f"{machine.paths.temp}/env", limit=3) == b""
    with pytest.raises(FileNotFoundError):
        await machine.get("/home/runner/absent", limit=3)
    with pytest.raises(ValueError, match="at most 2 are read"):
        await machine.get(f"{machine.paths.work}/R/R/deep/file", limit=2)
    await trio.Path(tmp_path / "b.tar").write_bytes(b"no archive" * 1000)
    with pytest.raises(OSError, match="tar"):
        await machine.unpack(tmp_path / "b.tar", f"{machine.paths.work}/R/R")
    with pytest.raises(OSError, match="cannot reach this host"):
        await machine.listen(8080, lambda stream: stream.aclose())


async def test_identity_is_the_machines_own(ready: Ready) -> None:
    """Who a machine is is read from it."""
    first, second = (await ready()).identity, (await ready()).identity
    assert first is not None
    assert second is not None
    assert first.boot_id != second.boot_id


async def test_twin_is_not_let_in(driver: FcctlDriver, fake: Any) -> None:
    """Two machines with one boot id are copies of one running machine: the second is given back."""
    fake.boot_id = "01234567-89ab-cdef-0123-456789abcdef"
    await (await asleep(driver)).thaw()
    second = await asleep(driver)
    with pytest.raises(MachineLost, match="twin of another"):
        await second.thaw()
    assert len(fake.vms) == 1


async def test_wrong_clock_is_not_let_in(opened: Opened, fake: Any) -> None:
    """A machine whose clock is off and cannot be set is given back."""
    async with opened(now=lambda: 1_000_000.0) as driver:
        machine = await asleep(driver)
        with pytest.raises(MachineLost, match=r"clock of machine vm-\w+ is \d+ s off"):
            await machine.thaw()
    assert fake.vms == {}


@pytest.mark.parametrize("status", ["failed", "Error"])
async def test_failed_start_is_seen_at_once(driver: FcctlDriver, fake: Any, status: str) -> None:
    """A machine that the service gave up is not waited for, and is given back."""
    fake.ends_in = status
    machine = await asleep(driver)
    with pytest.raises(MachineLost, match=status), trio.fail_after(20):
        await machine.thaw()
    assert fake.vms == {}


async def test_start_that_does_not_end_is_given_back(opened: Opened, fake: Any) -> None:
    """A machine that does not come up in its time is lost, and given back."""
    fake.polls_until_running = 10_000
    async with opened(ready=0.3) as driver:
        machine = await asleep(driver)
        with pytest.raises(MachineLost, match=r"did not come up within 0\.3 s"):
            await machine.thaw()
        assert fake.vms == {}


async def test_trouble_during_the_start_is_waited_out(driver: FcctlDriver, fake: Any) -> None:
    """A service that stumbles while a machine starts costs time only."""
    fake.fault, fake.faults["GET /api/vms/"] = "garbage", 3
    machine = await asleep(driver)
    await machine.thaw()
    fake.fault, fake.faults["DELETE"] = "refuse", 2
    await machine.destroy()
    assert fake.vms == {}


async def test_destroyed_machine_is_lost(ready: Ready, fake: Any) -> None:
    """After its end, which may be asked for twice, every call says so."""
    machine = await ready()
    await machine.destroy()
    await machine.destroy()
    assert fake.vms == {}
    for call in (machine.lease, lambda: machine.put("/home/runner/x", b""), lambda: machine.get_all({})):
        with pytest.raises(MachineLost, match="it was destroyed"):
            await call()


async def test_no_terminal(ready: Ready) -> None:
    """A shell is refused with the reason: the service moves no bytes while something runs."""
    machine = await ready()

    class Nobody:
        window = Window()

        async def keys(self) -> bytes:
            return b""

        async def show(self, data: bytes) -> None:
            raise AssertionError

    with pytest.raises(OSError, match="has no terminal"):
        await machine.shell(Command(argv=("bash",)), Nobody())
