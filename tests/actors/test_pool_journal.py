"""What the journal of machines hears of the pool: each stage before it begins, and why each machine ends."""

from functools import partial

import pytest
import trio

from runnerd.machines.driver import DESTROYED
from runnerd.messages import LeaseMachine
from runnerd.supervise.reply import Reply

from .empty_machines import DriverOfEmptyMachines, Running


@pytest.fixture
def driver():
    return DriverOfEmptyMachines()


async def test_the_journal_hears_of_each_stage_before_it_begins(nursery, autojump_clock, driver):
    """With the job and how long it waited; that a machine ends, and why, while it still lives."""
    pool = Running(driver, min_idle=0)
    await nursery.start(pool.actor.run)
    machine = await pool.lease(7)
    await machine.destroy()
    await trio.sleep(1)
    assert pool.heard() == ({"m1": ["warm", "leased", "leaving", "gone"]}, {"m1": DESTROYED})
    leased, alive = pool.told[1]
    assert (leased.driver, leased.image, leased.job, round(leased.waited, 3)) == ("empty", "default", 7, 0.1)
    assert alive == {"m1"}
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("trouble", ["thaw", "lease", "age", "nobody", "stop"])
async def test_the_journal_says_why_a_machine_ended(nursery, autojump_clock, driver, trouble):
    """One reason for each way in which the pool itself ends a machine, told before it does."""
    why = {
        "thaw": "it never answered",
        "lease": "the clock would not be set",
        "age": "older than max_idle_age",
        "nobody": "its job no longer waited",
        "stop": "the machine pool stopped",
    }[trouble]
    pool = Running(driver, max_idle_age=30.0)
    driver.broken_thaws, driver.broken_leases = int(trouble == "thaw"), int(trouble == "lease")
    async with trio.open_nursery() as life:
        await life.start(pool.actor.run)
        await trio.sleep(0.5)
        if trouble == "lease":
            await pool.lease()
        elif trouble == "nobody":
            gone = Reply()
            driver.machines[0].lease = partial(trio.sleep, 1)
            await pool.mailbox.send(LeaseMachine("default", 1, gone))
            with trio.move_on_after(0.5):
                await gone.wait()
        await trio.sleep(0.2 if trouble == "stop" else 40)
        life.cancel_scope.cancel()
    assert pool.heard()[1]["m1"] == why
    [alive] = [alive for news, alive in pool.told if news.id == "m1" and news.stage == "leaving"][:1]
    assert "m1" in alive
