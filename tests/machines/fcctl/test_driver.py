"""The driver's account of its machines: none is left at the service, whatever went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from runnerd.machines.driver import Driver, Machine, MachineLost, NoMachine, NotKept, Size
from runnerd.machines.fcctl.driver import SETTLED, FcctlDriver
from runnerd.machines.journal import MachineNote

Opened = Callable[..., AbstractAsyncContextManager[FcctlDriver]]


async def clone(driver: Driver) -> Machine:
    return await driver.clone(await driver.build_template("ubuntu", Size()))


async def test_leaving_gives_all_back(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """No machine and no record outlives the driver, and the journal saw each come and go."""
    notes: list[tuple[str, str]] = []

    async def journal(note: MachineNote) -> None:
        notes.append((note.id, note.state))

    async with opened(journal=journal) as driver:
        machines = [await clone(driver) for _ in range(3)]
        assert len(fake.vms) == 3
        assert await driver.adopt_or_reap() == 0
    assert fake.vms == {}
    assert list((tmp_path / "fcctl").iterdir()) == []
    assert sorted(notes) == sorted(
        (machine.id, state) for machine in machines for state in ("starting", "running", "gone")
    )


async def test_machines_of_a_killed_daemon_are_given_back(opened: Opened, fake: Any) -> None:
    """What an earlier daemon had is released by the next; other people's machines are left alone."""
    fake.answer("POST", "/api/vms", {"vm_type": "focal", "vm_name": "stranger"})
    async with opened() as killed:
        await clone(killed)
        async with opened() as driver:
            mine = await clone(driver)
            assert len(fake.vms) == 3
            assert await driver.adopt_or_reap() == 1
            assert await driver.adopt_or_reap() == 0
            await mine.thaw()
    assert len(fake.vms) == 1


async def test_unanswered_request_is_looked_after(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """A machine whose name never arrived is found by what it was to be called, when it must be there."""
    fake.keeps_names = True
    fake.fault, fake.faults["POST /api/vms"] = "drop", 1
    times = [time.time()]
    async with opened(now=lambda: times[0]) as driver:
        with pytest.raises(NoMachine, match="the service gives no machine"):
            await clone(driver)
        assert len(fake.vms) == 1
        assert await driver.adopt_or_reap() == 0
        times[0] += SETTLED + 1
        assert await driver.adopt_or_reap() == 1
        assert fake.vms == {}
        assert list((tmp_path / "fcctl").iterdir()) == []


async def test_unanswered_request_without_names_is_said(
    opened: Opened, fake: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without names nothing is removed by guess; the log names what nobody accounts for."""
    fake.fault, fake.faults["POST /api/vms"] = "drop", 1
    times = [time.time()]
    async with opened(now=lambda: times[0]) as driver:
        with pytest.raises(NoMachine):
            await clone(driver)
        times[0] += SETTLED + 1
        assert await driver.adopt_or_reap() == 0
    assert len(fake.vms) == 1
    assert list((tmp_path / "fcctl").iterdir()) == []
    said = capsys.readouterr()
    assert next(iter(fake.vms)) in said.out + said.err


async def test_machine_that_is_not_released_is_swept(opened: Opened, fake: Any) -> None:
    """A release the service refuses is made up for by the next sweep."""
    async with opened() as driver:
        machine = await clone(driver)
        fake.fault, fake.faults["DELETE"] = "refuse", 3
        await machine.destroy()
        assert len(fake.vms) == 1
        assert await driver.adopt_or_reap() == 1
        assert fake.vms == {}


async def test_cancelled_request_leaves_no_machine(opened: Opened, fake: Any) -> None:
    """A caller that gives up while the service answers leaves nothing behind."""
    async with opened() as driver:
        template = await driver.build_template("ubuntu", Size())
        with trio.CancelScope() as scope:
            scope.cancel()
            await driver.clone(template)
        assert scope.cancelled_caught
        assert fake.vms == {}


async def test_full_service_is_no_machine(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """The service's own refusal is the reason that is shown."""
    fake.max_vms = 0
    async with opened() as driver:
        with pytest.raises(NoMachine, match="409 VM limit reached"):
            await clone(driver)


async def test_token_is_looked_at_first(
    opened: Opened, fake: Any, web_token: Callable[[float], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A token that ran out is named before the service is asked; one that will soon is warned of."""
    async with opened(token=web_token(time.time() - 90_000)) as driver:
        with pytest.raises(NoMachine, match=r"ran out 25\.0 hours ago"):
            await driver.build_template("ubuntu", Size())
    fake.token = web_token(time.time() + 7200)
    async with opened(token=fake.token) as driver:
        await driver.build_template("ubuntu", Size())
    said = capsys.readouterr()
    assert "runs out in 2.0 hours" in said.out + said.err


async def test_token_that_runs_out_meanwhile_is_named(
    opened: Opened, fake: Any, web_token: Callable[[float], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A daemon outlives its token: it is warned of once an hour, then no machine is asked for, and a running
    one is lost with that reason, not with a bare 401."""
    start = time.time()
    clock = [start]
    fake.token = web_token(start + 86400 + 7200)
    async with opened(token=fake.token, now=lambda: clock[0]) as driver:
        await clone(driver)
        assert "runs out" not in capsys.readouterr().err
        for passed in (7300, 7400, 11000):
            clock[0] = start + passed
            machine = await clone(driver)
        said = capsys.readouterr()
        assert (said.out + said.err).count("the token of the Firecracker service runs out") == 2
        clock[0] = start + 86400 + 7200
        asked = len(fake.names)
        with pytest.raises(NoMachine, match="ran out 0 minutes ago: get a new one"):
            await clone(driver)
        assert len(fake.names) == asked
        fake.token = "another"
        with pytest.raises(MachineLost, match=r"refuses the token: the token .* ran out"):
            await machine.thaw()
        fake.token = driver._token


async def test_wrong_token_and_absent_service(opened: Opened, fake: Any) -> None:
    """What keeps the service from being used is said when the pool starts."""
    async with opened(token="other") as driver:
        with pytest.raises(NoMachine, match="refuses the token"):
            await driver.build_template("ubuntu", Size())


async def test_unnamed_snapshot_is_not_kept(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """A snapshot the service does not name is none, and the machine goes on."""
    async with opened() as driver:
        machine = await clone(driver)
        await machine.thaw()
        fake.fault, fake.faults["POST /api/vms/vm-"] = "nameless", 1
        with pytest.raises(NotKept, match="names no snapshot"):
            await machine.snapshot(tmp_path / "kept/1", key=None, limit=1 << 30)
        await machine.lease()
