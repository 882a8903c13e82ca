"""The pool keeps as many machines warm as the last hours needed, and remembers them over restarts."""

import pytest
import trio

from runnerd.machines.demand import MEMORY
from runnerd.machines.driver import Capabilities

from .empty_machines import DriverOfEmptyMachines, Running


@pytest.fixture
def driver():
    return DriverOfEmptyMachines()


async def warm(pool) -> int:
    return sum(line.stage == "warm" for line in (await pool.describe()).machines)


async def burst(pool, jobs: int) -> list[float]:
    """So many jobs at once, each for a second; returns how long each waited."""
    waits = []

    async def one(job: int) -> None:
        began = trio.current_time()
        machine = await pool.lease(job)
        waits.append(trio.current_time() - began)
        await trio.sleep(1)
        await machine.destroy()

    async with trio.open_nursery() as nursery:
        for job in range(jobs):
            nursery.start_soon(one, job)
    return waits


async def test_a_burst_like_the_last_finds_machines_warm(nursery, autojump_clock, driver):
    """The first pays for its builds; those within the next hour do not, and it is said why."""
    pool = Running(driver, memory=2000, max_idle=-1)
    await nursery.start(pool.actor.run)
    await trio.sleep(5)
    assert max(await burst(pool, 4)) > 0
    for _ in range(3):
        await trio.sleep(1200)
        assert await warm(pool) == 4
        assert await burst(pool, 4) == [0.0] * 4
    assert (await pool.describe()).keeps == (
        "image default: keeps 4 warm: 12 jobs in the last hour, and lately up to 4 within a minute",
    )
    nursery.cancel_scope.cancel()


async def test_what_nobody_needs_any_more_is_given_up(nursery, autojump_clock, driver):
    """Machines that grew too old are no longer replaced, until only the minimum is left."""
    pool = Running(driver, memory=2000, max_idle=-1)
    await nursery.start(pool.actor.run)
    await burst(pool, 4)
    await trio.sleep(MEMORY + 1201)
    assert await warm(pool) == 1
    nursery.cancel_scope.cancel()


async def test_what_was_needed_before_a_restart_is_remembered(nursery, autojump_clock, driver):
    """The journal tells it, and images that are no longer configured are nobody's concern."""
    asked = []

    async def history(seconds):
        asked.append(seconds)
        return [("gone", 50.0), *(("default", 20.0 - number) for number in range(3))]

    pool = Running(driver, memory=2000, max_idle=-1, history=history)
    await nursery.start(pool.actor.run)
    await trio.sleep(5)
    assert asked == [MEMORY]
    assert await warm(pool) == 3
    nursery.cancel_scope.cancel()


async def test_machines_of_another_host_are_limited_by_their_number_alone(nursery, autojump_clock, driver):
    """This host's memory has room for none, and three are leased all the same."""
    driver.capabilities = Capabilities(isolated=True, remote=True)
    pool = Running(driver, memory=0, vcpus=1, max_total=3)
    await nursery.start(pool.actor.run)
    machines = [await pool.lease(job) for job in range(3)]
    described = await pool.describe()
    assert (described.remote, described.capacity, len(machines)) == (True, 3, 3)
    nursery.cancel_scope.cancel()
