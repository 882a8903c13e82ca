"""What a start owes to the jobs that ran when the last daemon ended."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from runnerd.model import JobRecord, JobResult, Outcome
from runnerd.store import jobs, machines

ATTEMPTS = 3
"""One try and two retries of a job whose machine was lost before any step of it started."""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What `Ledger.recover` did, oldest job first."""

    lost: tuple[tuple[int, int, int], ...] = ()
    """(run, job, epoch) of the attempts that ended as LOST, and their jobs with them."""
    requeued: tuple[tuple[int, int, int], ...] = ()
    """(run, job, epoch) of the attempts whose job waits for another one."""


def recover(connection: sa.Connection, now: float) -> Recovery:
    """Decide about every job that is recorded as running, while surely none is."""
    lost, requeued = [], []
    for job in jobs.running(connection):
        here = (job.run, job.id, job.epoch)
        if not job.step_started and job.epoch < ATTEMPTS:
            jobs.retry(
                connection,
                job.id,
                job.epoch,
                "the daemon or its executor ended before a step had started",
                now,
            )
            requeued.append(here)
            continue
        why = (
            "a step had started" if job.step_started else f"it was attempt {job.epoch} of at most {ATTEMPTS}"
        )
        reason = (
            f"the daemon or its executor ended while this job ran on machine {_machine(connection, job)}, "
            f"and it is not tried again because {why}"
        )
        jobs.end(connection, job, job.epoch, JobResult(outcome=Outcome.LOST, reason=reason), None, now)
        lost.append(here)
    return Recovery(lost=tuple(lost), requeued=tuple(requeued))


def _machine(connection: sa.Connection, job: JobRecord) -> str:
    """The machine of a job that ran, with what the journal says of its end."""
    row = machines.of_attempt(connection, job.id, job.epoch)
    if row is None:
        return job.machine
    return f"{row.id} ({row.why})" if row.why else row.id
