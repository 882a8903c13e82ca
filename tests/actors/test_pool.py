"""The pool actor: warm machines ready, leases served in order, nothing leaked whatever dies."""

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runnerd.actors.pool import REAP_EVERY, PoolActor
from runnerd.machines.driver import MachineLost, NoMachine, Size, Template
from runnerd.machines.kinds import Kind, Rules
from runnerd.messages import LeaseMachine, PausePool, PoolRestarted
from runnerd.model import Pause
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

from .empty_machines import SIZE, DriverOfEmptyMachines, Running


@pytest.fixture
def driver():
    return DriverOfEmptyMachines()


async def test_it_keeps_its_minimum_warm(nursery, autojump_clock, driver):
    """Once started, `min_idle` machines come up without anybody asking."""
    pool = Running(driver, min_idle=2)
    await nursery.start(pool.actor.run)
    await trio.sleep(1)
    stages = [machine.stage for machine in (await pool.describe()).machines]
    assert stages == ["warm", "warm"]
    nursery.cancel_scope.cancel()


async def test_a_machine_that_dies_within_its_lease_is_replaced(nursery, autojump_clock, driver):
    """Its end is noticed before its lease fails: the asker gets the next one, and the pool lives on."""
    pool = Running(driver)
    await nursery.start(pool.actor.run)
    await trio.sleep(1)
    warm = driver.machines[0]

    async def lease() -> None:
        warm.die("its kernel panicked")
        await trio.sleep(1)
        raise MachineLost("its kernel panicked")

    warm.lease = lease
    with trio.fail_after(10):
        machine = await pool.lease()
    assert machine.leased
    assert machine is not warm
    nursery.cancel_scope.cancel()


async def test_a_lease_takes_a_warm_machine_and_another_is_made(nursery, autojump_clock, driver):
    """The asker gets a leased machine at once, and the pool is refilled."""
    pool = Running(driver)
    await nursery.start(pool.actor.run)
    await trio.sleep(1)
    before = trio.current_time()
    machine = await pool.lease(job=7)
    assert machine.leased
    assert trio.current_time() == before
    await trio.sleep(1)
    described = {line.machine: (line.stage, line.job) for line in (await pool.describe()).machines}
    assert described == {"m1": ("leased", 7), "m2": ("warm", None)}
    nursery.cancel_scope.cancel()


async def test_a_destroyed_machine_frees_its_place(nursery, autojump_clock, driver):
    """When a job's machine is destroyed its memory serves the next one who waits."""
    pool = Running(driver, memory=100, min_idle=0)
    await nursery.start(pool.actor.run)
    first = await pool.lease(1)
    with trio.move_on_after(5) as waited:
        await pool.lease(2)
    assert waited.cancelled_caught, "memory was overcommitted"
    await first.destroy()
    second = await pool.lease(3)
    assert second.id != first.id
    assert driver.alive == {second.id}
    nursery.cancel_scope.cancel()


async def test_sizes_of_one_image_are_kinds_of_their_own(nursery, autojump_clock, driver):
    """Each is made from its image in its size, within memory as its size is, and who waits hears why."""
    pool = Running(driver)
    kinds = {
        "default": Kind(size=SIZE),
        "large": Kind(size=Size(vcpus=2, memory=250, disk=64), image="default", min_idle=0),
    }
    asked = []

    async def build_template(image: str, size: Size, generation: str) -> Template:
        asked.append((image, size.memory))
        return Template(key=f"{image}-{size.memory}", image=image, size=size)

    driver.build_template = build_template
    pool.actor = PoolActor(pool.mailbox, driver.open, kinds, Rules(min_idle=1, memory=300))
    await nursery.start(pool.actor.run)
    small = await pool.lease(1)
    nursery.start_soon(pool.lease, 2, "large")
    await trio.sleep(1)
    described = await pool.describe()
    assert [line.why for line in described.waiting] == [
        "a machine needs 250 MiB and 100 MiB of 300 MiB are free"
    ]
    await small.destroy()
    await trio.sleep(1)
    described = await pool.describe()
    assert [(line.image, line.stage) for line in described.machines] == [("large", "leased")]
    assert asked == [("default", 100), ("default", 250)]
    nursery.cancel_scope.cancel()


async def test_a_machine_is_never_leased_twice(nursery, autojump_clock, driver):
    """Twenty jobs get twenty different machines."""
    pool = Running(driver, memory=500)
    await nursery.start(pool.actor.run)
    seen = []
    for job in range(20):
        machine = await pool.lease(job)
        seen.append(machine.id)
        await machine.destroy()
    assert len(set(seen)) == 20
    nursery.cancel_scope.cancel()


async def test_a_machine_that_does_not_thaw_is_replaced(nursery, autojump_clock, driver):
    """A clone that fails the thaw gate is destroyed and another is tried after a pause."""
    driver.broken_thaws = 1
    pool = Running(driver, min_idle=0)
    await nursery.start(pool.actor.run)
    machine = await pool.lease()
    assert machine.id == "m2"
    assert driver.alive == {"m2"}
    nursery.cancel_scope.cancel()


async def test_who_waits_on_a_broken_image_is_told_why(nursery, autojump_clock, driver):
    """After three failures in a row the wait ends with the reason, and the pool goes on trying."""
    driver.broken_thaws = 3
    pool = Running(driver, min_idle=0, builders=1)
    await nursery.start(pool.actor.run)
    with pytest.raises(NoMachine, match="it never answered"):
        await pool.lease()
    assert driver.alive == set()
    trouble = (await pool.describe()).trouble
    assert trouble[0].startswith("3 builds in a row of image default failed, the next is tried in")
    nursery.cancel_scope.cancel()


async def test_a_machine_that_fails_its_lease_is_replaced_for_the_same_asker(nursery, autojump_clock, driver):
    """Who asked gets the next machine; the failed one is destroyed."""
    driver.broken_leases = 1
    pool = Running(driver, min_idle=0)
    await nursery.start(pool.actor.run)
    machine = await pool.lease()
    assert machine.id == "m2"
    assert "m1" not in driver.alive
    nursery.cancel_scope.cancel()


async def test_a_warm_machine_that_dies_is_replaced(nursery, autojump_clock, driver):
    """The death of an idle machine is noticed without a lease."""
    pool = Running(driver)
    await nursery.start(pool.actor.run)
    await trio.sleep(1)
    driver.machines[0].die("kernel panic")
    await trio.sleep(1)
    assert [line.machine for line in (await pool.describe()).machines] == ["m2"]
    nursery.cancel_scope.cancel()


async def test_an_unknown_image_is_refused(nursery, autojump_clock, driver):
    """A request for an image that is not configured is answered at once."""
    pool = Running(driver)
    await nursery.start(pool.actor.run)
    with pytest.raises(NoMachine, match="no image is called 'other'"):
        await pool.lease(image="other")
    nursery.cancel_scope.cancel()


async def test_an_asker_who_gives_up_leaves_no_machine_behind(nursery, autojump_clock, driver):
    """A machine that was being made for a cancelled request stays warm for the next."""
    pool = Running(driver, min_idle=0)
    await nursery.start(pool.actor.run)
    with trio.move_on_after(0.05):
        await pool.lease()
    await trio.sleep(1)
    machine = await pool.lease(2)
    assert machine.id == "m1"
    nursery.cancel_scope.cancel()


async def test_who_waits_is_told_when_the_pool_goes_down(nursery, autojump_clock, driver):
    """A crash of the pool ends no wait in silence, and every machine is destroyed."""
    driver.thaw_time = 1000.0
    pool = Running(driver)
    told = []

    async def ask():
        with pytest.raises(PoolRestarted):
            await pool.lease()
        told.append(True)

    async with trio.open_nursery() as life:
        await life.start(pool.actor.run)
        nursery.start_soon(ask)
        await trio.sleep(1)
        life.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert told == [True]
    assert driver.alive == set()


async def test_closing_the_mailbox_drains(nursery, autojump_clock, driver):
    """After `close` the warm machines go, leased ones are waited for, and the actor ends."""
    pool = Running(driver)
    ended = trio.Event()

    async def live(*, task_status):
        await pool.actor.run(task_status=task_status)
        ended.set()

    await nursery.start(live)
    machine = await pool.lease()
    pool.mailbox.close()
    await trio.sleep(10)
    assert not ended.is_set()
    assert driver.alive == {machine.id}
    await machine.destroy()
    with trio.fail_after(5):
        await ended.wait()
    assert driver.alive == set()


async def test_orphans_are_looked_for_every_minute(nursery, autojump_clock, driver):
    """The search for machines of nobody runs at start and goes on (I5)."""
    pool = Running(driver)
    await nursery.start(pool.actor.run)
    assert driver.reaped == 1
    await trio.sleep(REAP_EVERY * 3 + 1)
    assert driver.reaped == 4
    nursery.cancel_scope.cancel()


async def test_orphans_that_cannot_be_looked_for_cost_no_machine(nursery, autojump_clock, driver):
    """A host that is short of descriptors for a moment keeps its pool, and is searched a minute later."""
    pool = Running(driver)
    reap = driver.adopt_or_reap
    await nursery.start(pool.actor.run)

    async def fail() -> int:
        raise OSError(24, "Too many open files")

    driver.adopt_or_reap = fail
    machine = await pool.lease()
    await trio.sleep(REAP_EVERY + 1)
    driver.adopt_or_reap = reap
    await trio.sleep(REAP_EVERY)
    assert driver.reaped == 2
    assert machine.id in driver.alive
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kept", [None, Path("whole-default")])
async def test_a_fault_of_ours_leaves_nobody_waiting(nursery, autojump_clock, driver, kept):
    """The pool goes down on what it does not know; whoever it was for is told so and asks again."""
    pool = Running(driver, min_idle=0)
    clone = driver.clone
    told = []

    async def faulty(template):
        machine = await clone(template)

        async def lease() -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError("nobody thought of this")

        machine.lease = lease
        return machine

    async def ask() -> None:
        with pytest.raises(PoolRestarted):
            await pool.lease(kept=kept)
        told.append("restarted")

    driver.clone = faulty
    nursery.start_soon(ask)
    with pytest.RaisesGroup(LookupError):
        await pool.actor.run()
    await wait_all_tasks_blocked()
    assert told == ["restarted"]
    assert driver.alive == set()


async def test_a_paused_pool_starts_nothing_and_loses_nobody(nursery, autojump_clock, driver):
    """Who asks waits with the reason, a leased machine stays, and resuming serves who waited."""
    pool = Running(driver)
    await nursery.start(pool.actor.run)
    leased = await pool.lease()
    await trio.sleep(1)
    made = driver.made
    await pool.mailbox.send(PausePool(Pause(reason="a new disk", since=0.0)))
    late = Reply()
    await pool.mailbox.send(LeaseMachine("default", 7, late))
    await trio.sleep(60)
    described = await pool.describe()
    assert "a new disk" in described.paused
    assert described.waiting[0].why == described.paused
    assert driver.made == made
    assert leased.id in driver.alive
    await pool.mailbox.send(PausePool(None))
    assert (await late.wait()).leased
    assert (await pool.describe()).paused is None


async def test_a_pool_that_starts_anew_is_still_paused(nursery, autojump_clock, driver):
    """What the ledger says at the start holds: nothing is built until it is resumed."""

    async def paused():
        return Pause(reason="", since=0.0)

    mailbox = Mailbox(16)
    rules = Rules(min_idle=1, memory=300)
    actor = PoolActor(mailbox, driver.open, {"default": Kind(size=SIZE)}, rules, paused=paused)
    await nursery.start(actor.run)
    await trio.sleep(60)
    assert driver.made == 0
    await mailbox.send(PausePool(None))
    await trio.sleep(1)
    assert driver.made == 1


async def test_a_kept_machine_is_leased_as_it_was(nursery, autojump_clock, driver):
    """It is thawed and leased as any, has its place and its job, and its end frees the place."""
    pool = Running(driver, min_idle=0)
    await nursery.start(pool.actor.run)
    machine = await pool.lease(7, kept=Path("whole-default"))
    assert machine.leased
    assert (driver.keys, driver.sizes) == ([None], [SIZE])
    lines = (await pool.describe()).machines
    assert [(line.machine, line.stage, line.job) for line in lines] == [(machine.id, "leased", 7)]
    await machine.destroy()
    await trio.sleep(1)
    assert (await pool.describe()).machines == ()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("kept", "why"),
    [("harmed", "the disk is not complete"), ("whole-other", "of image other, not of default")],
)
async def test_who_wants_a_machine_that_cannot_come_back_is_told_why(
    nursery, autojump_clock, driver, kept, why
):
    """What was kept is harmed or of another image: nothing of it stays, and nothing is built in its stead."""
    pool = Running(driver, min_idle=0)
    await nursery.start(pool.actor.run)
    with pytest.raises(NoMachine, match=why):
        await pool.lease(kept=Path(kept))
    assert driver.alive == set()
    described = await pool.describe()
    assert (described.machines, described.trouble) == ((), ())
    nursery.cancel_scope.cancel()


async def test_a_kept_machine_waits_for_room_and_is_unlocked_with_the_key_of_that_time(
    nursery, autojump_clock, driver
):
    """The wait is named while every place is taken; the key is read when it is needed."""
    keys = iter([b"1" * 32, b"2" * 32])
    pool = Running(driver, min_idle=0, max_total=1, snapshot_key=lambda: next(keys))
    await nursery.start(pool.actor.run)
    first = await pool.lease(1, kept=Path("whole-default"))
    reply = Reply()
    await pool.mailbox.send(LeaseMachine("default", 2, reply, Path("whole-default")))
    await trio.sleep(60)
    (line,) = (await pool.describe()).waiting
    assert (line.job, line.why) == (2, "the one machine that the pool may have is taken")
    await first.destroy()
    assert (await reply.wait()).leased
    assert driver.keys == [b"1" * 32, b"2" * 32]
    nursery.cancel_scope.cancel()


async def test_who_waits_for_a_kept_machine_is_told_when_the_pool_goes_down(nursery, autojump_clock, driver):
    """While it is being brought back as while it waits for room."""
    driver.thaw_time = 1000.0
    pool = Running(driver, min_idle=0, max_total=1)
    told = []

    async def ask(job):
        with pytest.raises(PoolRestarted):
            await pool.lease(job, kept=Path("whole-default"))
        told.append(job)

    async with trio.open_nursery() as life:
        await life.start(pool.actor.run)
        nursery.start_soon(ask, 1)
        nursery.start_soon(ask, 2)
        await trio.sleep(1)
        life.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert sorted(told) == [1, 2]
    assert driver.alive == set()
