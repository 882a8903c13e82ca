"""Many jobs through a pool of few machines. A job here is a lease, one `run: true` and the machine's end."""

from __future__ import annotations

import time
from functools import partial

import trio

from bench.drivers import DRIVERS, OpenDriver, opened, suffix
from bench.machines import SIZE, bash, lease
from bench.results import Figures, single, spread
from runnerd.actors.pool import PoolActor
from runnerd.machines.kinds import Kind, Rules
from runnerd.messages import LeaseMachine
from runnerd.supervise.mailbox import Mailbox

JOBS, MACHINES, BUILDERS = 100, 8, 2


def measure() -> Figures:
    """With machines of each driver: from the first lease to the last end, and each job's wait."""
    figures: Figures = {}
    for driver in DRIVERS:
        found = trio.run(run, partial(opened, driver), JOBS)
        figures |= {name + suffix(driver): figure for name, figure in found.items()}
    return figures


async def run(open_driver: OpenDriver, jobs: int) -> Figures:
    """The same with the machines of any driver."""
    mailbox: Mailbox[LeaseMachine] = Mailbox(jobs)
    rules = Rules(min_idle=2, max_total=MACHINES, memory=MACHINES * 2 * SIZE.memory, builders=BUILDERS)
    pool = PoolActor(mailbox, open_driver, {"default": Kind(size=SIZE)}, rules)  # type: ignore[arg-type]
    waits: list[float] = []

    async def job(number: int) -> None:
        machine = await lease(mailbox, number)
        waits.append((time.perf_counter() - started) * 1000)
        try:
            await bash(machine)
        finally:
            await machine.destroy()

    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        started = time.perf_counter()
        async with trio.open_nursery() as crowd:
            for number in range(jobs):
                crowd.start_soon(job, number)
        seconds = time.perf_counter() - started
        nursery.cancel_scope.cancel()
    return {
        f"pool_of_{MACHINES}_{jobs}_jobs": single(seconds * 1000, "ms"),
        f"pool_of_{MACHINES}_{jobs}_jobs_wait": spread(waits),
    }
