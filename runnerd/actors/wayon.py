"""Where a job goes on: the machine that is kept, and how the job stood; a part of the executor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from runnerd.jobs.standing import BadStanding, Standing, decode
from runnerd.machines.driver import NoMachine
from runnerd.machines.kept import Kept, KeptMachines
from runnerd.machines.sealed import Unsealed


@asynccontextmanager
async def way_on(store: KeptMachines, resumes: str) -> AsyncIterator[tuple[Kept, Standing]]:
    """The machine and the standing that `JobRecord.resumes` names; neither is removed within this context.

    Raises `NoMachine` when they are not kept any more, are harmed, or cannot be read without their key.
    """
    job, _, step = resumes.partition("/")
    with store.held(store.named(resumes)):
        kept = await trio.to_thread.run_sync(store.find, int(job), int(step))
        if kept is None:
            raise NoMachine(
                f"it was to go on from step {step} of job {job}, and the machine as it was then is not kept "
                "any more: run the job again from its start"
            )
        yield kept, await trio.to_thread.run_sync(_standing, store, kept)


def _standing(store: KeptMachines, kept: Kept) -> Standing:
    try:
        return decode(store.standing(kept))
    except (Unsealed, BadStanding) as problem:
        raise NoMachine(f"{problem}: run the job again from its start") from problem
