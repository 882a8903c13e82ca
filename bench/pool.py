"""Many jobs through a pool of few machines. A job here is a lease, one `run: true` and the machine's end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio

from bench.machines import SIZE, bash, open_driver
from bench.results import Figures, single, spread
from runnerd.actors.pool import PoolActor
from runnerd.machines.driver import Machine
from runnerd.machines.kinds import Kind, Rules
from runnerd.messages import LeaseMachine
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

JOBS, MACHINES, BUILDERS = 100, 8, 2


def measure(jobs: int = JOBS) -> Figures:
    """In real microVMs: from the first lease to the last end, and each job's wait for its machine."""
    return trio.run(run, partial(open_driver, None), jobs)


async def run(open_driver: Callable[[], AbstractAsyncContextManager[Any]], jobs: int) -> Figures:
    """The same with the machines of any driver."""
    mailbox: Mailbox[LeaseMachine] = Mailbox(jobs)
    rules = Rules(min_idle=2, max_total=MACHINES, memory=MACHINES * 2 * SIZE.memory, builders=BUILDERS)
    pool = PoolActor(mailbox, open_driver, {"default": Kind(size=SIZE)}, rules)
    waits: list[float] = []

    async def job(number: int) -> None:
        reply: Reply[Machine] = Reply()
        await mailbox.send(LeaseMachine("default", number, reply))
        machine = await reply.wait()
        waits.append((time.perf_counter() - started) * 1000)
        try:
            await machine.put(f"{machine.paths.temp}/true.sh", b"true")
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
