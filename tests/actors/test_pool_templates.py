"""Templates in the pool: made when they are wanted, and a broken image disturbs nobody else."""

import pytest
import trio

from runnerd.actors.pool import READY_WITHIN
from runnerd.machines.driver import NoMachine
from runnerd.machines.kinds import Kind

from .empty_machines import SIZE, DriverOfEmptyMachines, Running

TWO = {"default": Kind(size=SIZE), "other": Kind(size=SIZE)}


@pytest.fixture
def driver():
    return DriverOfEmptyMachines()


async def test_a_broken_image_keeps_no_other_from_working(nursery, autojump_clock, driver):
    """The pool is ready, serves the image that works, and says of the other what is wrong, in vain or not."""
    driver.absent.add("default")
    pool = Running(driver, kinds=TWO)
    await nursery.start(pool.actor.run)
    assert (await pool.lease(1, "other")).leased
    with pytest.raises(NoMachine, match="there is no image 'default': build it"):
        await pool.lease(2, "default")
    described = await pool.describe()
    assert described.ready
    assert "3 builds in a row of image default failed" in described.trouble[0]
    assert "build it" in described.trouble[0]
    nursery.cancel_scope.cancel()


async def test_a_pool_without_any_image_serves_and_says_so(nursery, autojump_clock, driver):
    """It tries again with pauses that grow to a minute, and takes an image that was built meanwhile."""
    driver.absent |= {"default", "other"}
    pool = Running(driver, kinds=TWO, builders=1)
    await nursery.start(pool.actor.run)
    assert driver.templates == ["default", "other"]
    assert not (await pool.describe()).ready
    await trio.sleep(600)
    assert 20 < len(driver.templates) < 50
    driver.absent.clear()
    await trio.sleep(61)
    described = await pool.describe()
    assert described.ready
    assert described.trouble == ()
    assert {line.stage for line in described.machines} == {"warm"}
    nursery.cancel_scope.cancel()


async def test_an_impatient_pool_ends_with_the_reason_when_no_image_works(autojump_clock, driver):
    """Who runs once wants to hear at once that no machine can be had, in the driver's words."""
    driver.absent.add("default")
    with pytest.RaisesGroup(pytest.RaisesExc(NoMachine, match="there is no image .default.: build it")):
        await Running(driver, patient=False).actor.run()


async def test_the_pool_is_ready_as_soon_as_one_image_works(nursery, autojump_clock, driver):
    """Templates take long: who asks for the first is served while the second is still being made."""
    driver.template_time = 50.0
    pool = Running(driver, kinds=TWO, builders=1)
    await nursery.start(pool.actor.run)
    assert trio.current_time() < 51
    assert (await pool.lease(1)).leased
    assert trio.current_time() < 52
    assert not (await pool.describe()).trouble
    nursery.cancel_scope.cancel()


async def test_a_pool_that_finds_no_end_of_trying_serves_in_time(nursery, autojump_clock, driver):
    """However long images that do not boot take, the start is not given up for them."""
    kinds = {f"i{n}": Kind(size=SIZE) for n in range(9)}
    driver.absent |= set(kinds)
    driver.template_time = 60.0
    pool = Running(driver, kinds=kinds, builders=1)
    await nursery.start(pool.actor.run)
    assert READY_WITHIN <= trio.current_time() < READY_WITHIN + 1
    nursery.cancel_scope.cancel()


async def test_a_template_is_made_ahead_of_who_asks_and_only_once(nursery, autojump_clock, driver):
    """Where no machine is kept warm the first who asks still waits for a clone only."""
    driver.template_time = 50.0
    pool = Running(driver, min_idle=0)
    await nursery.start(pool.actor.run)
    assert (await pool.describe()).machines == ()
    before = trio.current_time()
    machines = [await pool.lease(job) for job in (1, 2)]
    assert all(machine.leased for machine in machines)
    assert trio.current_time() < before + 1
    assert driver.templates == ["default"]
    nursery.cancel_scope.cancel()


async def test_making_a_template_takes_its_place_in_memory(nursery, autojump_clock, driver):
    """The machine that is booted for it counts as any other, so that memory is never overcommitted."""
    driver.template_time = 50.0
    pool = Running(driver, kinds={name: Kind(size=SIZE, min_idle=0) for name in TWO}, memory=150)
    nursery.start_soon(pool.actor.run)
    await trio.sleep(1)
    assert [(line.image, line.stage) for line in (await pool.describe()).machines] == [
        ("default", "preparing")
    ]
    assert driver.templates == ["default"]
    await trio.sleep(50)
    assert driver.templates == ["default", "other"]
    nursery.cancel_scope.cancel()
