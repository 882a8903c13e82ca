"""Going back: the service's machine stays the same one, ours does not, and it is released once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from runnerd.machines.driver import Command, Exit, Machine, MachineLost, NoMachine, NotKept
from runnerd.machines.fcctl.driver import FcctlDriver
from runnerd.machines.journal import MachineNote

from ..conftest import leased, run

Opened = Callable[..., AbstractAsyncContextManager[FcctlDriver]]
LIMIT = 1 << 30


def records(folder: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(path.read_bytes()) for path in sorted((folder / "fcctl").iterdir())]


async def test_machine_goes_back_under_an_id_of_its_own(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """It is what it was when it was kept, the one before is lost and releases nothing, and the journal saw
    the new one begin before the service was asked, and the old one end."""
    notes: list[tuple[str, str, int]] = []

    async def journal(note: MachineNote) -> None:
        notes.append((note.id, note.state, len(fake.rollbacks)))

    async with opened(journal=journal) as driver:
        machine = await leased(driver)
        vm = next(iter(fake.vms))
        assert (await run(machine, "echo kept >file"))[0].success
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        assert (await run(machine, "echo half done >file; echo new >other"))[0].success
        again = await driver.roll_back(machine, tmp_path / "kept")
        assert again.id != machine.id
        assert (machine.lost.is_set(), machine.reason) == (True, "it was rolled back")
        await machine.destroy()
        await machine.destroy()
        with pytest.raises(MachineLost, match="rolled back"):
            await machine.put("/home/runner/file", b"")
        await again.thaw()
        await again.lease()
        assert (await run(again, "cat file; ls"))[1] == "kept\n_temp\nfile\n"
        assert [(record["vm"], record["machine"]) for record in records(tmp_path)] == [(vm, again.id)]
        assert await driver.adopt_or_reap() == 0
        await again.destroy()
        await again.destroy()
        assert fake.removed == {vm: 1}
        assert records(tmp_path) == []
    assert [(id, state) for id, state, _ in notes] == [
        (machine.id, "starting"), (machine.id, "running"),
        (again.id, "starting"), (again.id, "running"), (machine.id, "gone"),
        (again.id, "gone"),
    ]  # fmt: skip
    assert [rollbacks for id, state, rollbacks in notes if id == again.id] == [0, 1, 1]


async def test_what_ran_before_is_never_taken_for_what_runs_now(
    opened: Opened, fake: Any, tmp_path: Path
) -> None:
    """A status of before the snapshot lies in the machine that went back: it answers for nothing."""
    async with opened() as driver:
        machine = await leased(driver)
        for number in range(4):
            assert (await run(machine, f"echo {number}"))[0].success
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        again = await driver.roll_back(machine, tmp_path / "kept")
        await again.thaw()
        await again.lease()
        for number in range(4):
            assert await run(again, f"echo again {number}; exit 7") == (Exit(code=7), f"again {number}\n")


async def test_machine_goes_back_more_than_once(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """To the same snapshot and to a later one."""
    async with opened() as driver:
        machine = await leased(driver)
        for name in ("first", "first", "second"):
            if not (tmp_path / name).exists():
                await machine.snapshot(tmp_path / name, key=None, limit=LIMIT)
            machine = await driver.roll_back(machine, tmp_path / name)
            await machine.thaw()
            await machine.lease()
        assert [snapshot for _, snapshot in fake.rollbacks] == ["snap-1", "snap-1", "snap-2"]
        assert len(fake.vms) == 1
    assert list(fake.removed.values()) == [1]


async def test_machine_that_goes_back_late_is_waited_for(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """The service answers before it is so: what the machine says until then is not believed."""
    async with opened() as driver:
        machine = await leased(driver)
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        await machine.put(f"{machine.paths.work}/later", b"")
        fake.rollback_lags = 3
        again = await driver.roll_back(machine, tmp_path / "kept")
        await again.thaw()
        with pytest.raises(FileNotFoundError):
            await again.get(f"{again.paths.work}/later", limit=1)


async def test_machine_that_never_went_back_is_not_used(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """The service said that it did: what says otherwise is what the machine wrote down."""
    async with opened(ready=0.5) as driver:
        machine = await leased(driver)
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        fake.forgets_rollbacks = True
        again = await driver.roll_back(machine, tmp_path / "kept")
        with pytest.raises(MachineLost, match="did not go back, which the service said it did, within"):
            await again.thaw()
        assert fake.vms == {}
        await again.destroy()
        await machine.destroy()
    assert list(fake.removed.values()) == [1]


async def test_random_numbers_of_after_the_snapshot_do_not_come_again(
    opened: Opened, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose randomness is what it was when it was kept is a twin of what it has been since."""
    drawn = "A" * 43 + "="
    real = fake.ran

    def ran(code: int, out: str, err: str) -> Any:
        lines = [f"probe {drawn}" if line.startswith("probe ") else line for line in out.split("\n")]
        return real(code, "\n".join(lines), err)

    async with opened() as driver:
        machine = await leased(driver)
        monkeypatch.setattr(fake, "ran", ran)
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        again = await driver.roll_back(machine, tmp_path / "kept")
        with pytest.raises(MachineLost, match="twin of another"):
            await again.thaw()
        assert fake.vms == {}


@pytest.mark.parametrize(
    ("fault", "said"), [("refuse", "503 busy"), ("drop", "ReadError|disconnected|RemoteProtocol")]
)
async def test_failed_rollback_is_no_machine(
    opened: Opened, fake: Any, tmp_path: Path, fault: str, said: str
) -> None:
    """Nobody knows then what the machine is: it is released, once, whoever ends it how often."""
    notes: list[tuple[str, str]] = []

    async def journal(note: MachineNote) -> None:
        notes.append((note.id, note.state))

    async with opened(journal=journal) as driver:
        machine = await leased(driver)
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        name = f"POST /api/vms/{next(iter(fake.vms))}/rollback"
        fake.fault, fake.faults[name] = fault, 1
        with pytest.raises(NoMachine, match=f"kept cannot be gone back to: .*({said})"):
            await driver.roll_back(machine, tmp_path / "kept")
        await machine.destroy()
        await machine.destroy()
        assert fake.vms == {}
    assert list(fake.removed.values()) == [1]
    assert [state for id, state in notes if id != machine.id] == ["starting", "gone"]
    assert records(tmp_path) == []


async def test_only_the_machine_itself_goes_back(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """Nobody gets a copy, nor does another machine; after its end there is no way, and no harm is done."""
    async with opened() as driver:
        machine, other = await leased(driver), await leased(driver)
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        with pytest.raises(NoMachine, match="only the machine itself goes back"):
            await driver.restore(tmp_path / "kept", key=None)
        with pytest.raises(NoMachine, match="ended with its machine"):
            await driver.roll_back(other, tmp_path / "kept")
        with pytest.raises(NoMachine, match="cannot be gone back to"):
            await driver.roll_back(machine, tmp_path / "absent")
        await machine.lease()
        await machine.destroy()
        with pytest.raises(NoMachine, match="ended with its machine"):
            await driver.roll_back(machine, tmp_path / "kept")
        await other.lease()
        assert fake.rollbacks == []


async def test_machine_that_ends_while_it_goes_back_has_ended(
    opened: Opened, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job was cancelled meanwhile: nothing comes in its place, and it is released once."""
    async with opened() as driver:
        machine = await leased(driver)
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        real = driver._service.roll_back

        async def late(vm: str, snapshot: str) -> None:
            await real(vm, snapshot)
            await machine.destroy()

        monkeypatch.setattr(driver._service, "roll_back", late)
        with pytest.raises(NoMachine, match="its machine ended meanwhile: it was destroyed"):
            await driver.roll_back(machine, tmp_path / "kept")
    assert (fake.vms, list(fake.removed.values())) == ({}, [1])


async def test_sweep_leaves_a_machine_that_goes_back_alone(
    opened: Opened, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the sweep read before: the service's machine is in use, under whichever name of ours."""
    async with opened() as driver:
        machine = await leased(driver)
        await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        seen = driver._records.all()
        again = await driver.roll_back(machine, tmp_path / "kept")
        monkeypatch.setattr(driver._records, "all", lambda: seen)
        assert await driver.adopt_or_reap() == 0
        await again.thaw()


async def test_nothing_is_kept_while_something_runs(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """Who waits for a process would hear of one that is gone."""
    async with opened() as driver, trio.open_nursery() as nursery:
        machine = await leased(driver)
        runs = trio.Event()

        async def hear(stream: str, data: bytes) -> None:
            runs.set()

        command = Command(argv=("bash", "-c", "echo runs; sleep 60"), env={"PATH": "/usr/bin:/bin"})
        nursery.start_soon(machine.exec, command, hear)
        with trio.fail_after(20):
            await runs.wait()
        with pytest.raises(NotKept, match="a process runs in it"):
            await machine.snapshot(tmp_path / "kept", key=None, limit=LIMIT)
        nursery.cancel_scope.cancel()
    assert fake.snapshots == []


class Turns:
    """Whatever goes out of a driver, one after the other; at one of them it stops as if it were killed."""

    def __init__(self, last: int) -> None:
        self.names: list[str] = []
        self.stopped = False
        self.quiet = trio.Event()
        """Set when it stopped, or has nothing more to do."""
        self.goes_on = trio.Event()
        self._last = last

    def counted(self, name: str, real: Any) -> Any:
        async def wrapped(*words: Any) -> Any:
            answer = await real(*words)
            self.names.append(f"{name} {' '.join(map(str, words[:2]))}")
            if len(self.names) == self._last:
                self.stopped = True
                self.quiet.set()
                with trio.CancelScope(shield=True):
                    await self.goes_on.wait()
            return answer

        return wrapped


async def there_and_back(driver: FcctlDriver, machine: Machine, kept: Path, turns: Turns) -> None:
    try:
        await machine.snapshot(kept, key=None, limit=LIMIT)
        again = await driver.roll_back(machine, kept)
        await again.thaw()
        await again.destroy()
    except (NotKept, NoMachine, MachineLost):
        pass  # who was taken for dead finds that its machine is gone
    finally:
        await machine.destroy()
        turns.quiet.set()


async def test_daemon_killed_at_any_turn_leaves_no_machine(opened: Opened, fake: Any, tmp_path: Path) -> None:
    """Its successor releases what it had, whichever request, record or note was its last; and if it was not
    dead after all, it leaves nothing either."""
    fake.polls_until_running = fake.refused_connections = 0
    seen: list[str] = []
    for last in range(1, 100):
        turns, state = Turns(last), tmp_path / f"turn-{last}"

        async def nothing(note: MachineNote) -> None:
            pass

        async with (
            opened(state=state, patience=0.2, journal=turns.counted("note", nothing)) as killed,
            trio.open_nursery() as nursery,
        ):
            turns.names = [""] * 100  # how a machine comes up is not looked at
            machine = await leased(killed)
            turns.names.clear()
            for owner, name in ((killed._service, "_request"), (killed, "_write")):
                setattr(owner, name, turns.counted(name, getattr(owner, name)))
            nursery.start_soon(there_and_back, killed, machine, state / "kept", turns)
            try:
                with trio.fail_after(30):
                    await turns.quiet.wait()
                there = len(fake.vms)
                async with opened(state=state) as successor:
                    assert await successor.adopt_or_reap() >= there
                assert fake.vms == {}
                assert records(state) == []
            finally:
                turns.goes_on.set()
        assert fake.vms == {}
        if not turns.stopped:
            seen = turns.names
            break
    assert any("rollback" in name for name in seen), seen
    assert any("_write" in name for name in seen), seen
