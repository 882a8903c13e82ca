"""The figure of many jobs through few machines, with machines in memory."""

from __future__ import annotations

from contextlib import asynccontextmanager

from bench import pool
from runnerd.machines.fake import open_fake_driver


async def test_every_job_has_a_machine_and_no_more_than_eight_live_at_once(autojump_clock):
    """Twenty jobs run on twenty machines, each destroyed, never more than the pool may hold."""
    drivers = []
    alive = []

    @asynccontextmanager
    async def open_counted():
        async with open_fake_driver(clone_seconds=1.0) as driver:
            clone = driver.clone

            async def counted(template):
                machine = await clone(template)
                alive.append(len(driver.machines))
                return machine

            driver.clone = counted
            drivers.append(driver)
            yield driver

    figures = await pool.run(open_counted, 20)
    assert figures["pool_of_8_20_jobs_wait"]["n"] == 20
    assert drivers[0].made >= 20
    assert max(alive) <= pool.MACHINES
