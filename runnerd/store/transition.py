"""One step of a run: the executor's decisions become rows and reports together, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from runnerd.model import JobRecord, JobResult, Outcome, Phase, RunRecord
from runnerd.store import jobs, runs
from runnerd.store.changes import Change, EndJob, EndRun, ExpandJob, QueueJob, SkipJob, StartRun
from runnerd.store.errors import IllegalTransition
from runnerd.store.phases import step
from runnerd.store.tables import jobs as jobs_table
from runnerd.store.tables import runs as runs_table


def apply(connection: sa.Connection, run_id: int, changes: Sequence[Change], now: float) -> None:
    """Apply the changes in their order; see `Ledger.apply`."""
    for change in changes:
        run = runs.known(connection, run_id)
        if run.phase is Phase.DONE:
            raise IllegalTransition(f"run {run_id} has ended and cannot change: {type(change).__name__}")
        match change:
            case StartRun():
                runs.start(connection, run, now)
            case ExpandJob(key=key, legs=legs):
                jobs.expand(connection, run_id, key, legs, now)
            case QueueJob(job=job, now=then):
                jobs.queue(connection, _job(connection, run_id, job), then)
            case SkipJob(job=job, reason=reason):
                record = _job(connection, run_id, job)
                skipped = JobResult(outcome=Outcome.SKIPPED, reason=reason)
                jobs.end(connection, record, record.epoch, skipped, None, now)
            case EndJob(job=job, epoch=epoch, result=result, allowed_to_fail=allowed):
                jobs.end(connection, _job(connection, run_id, job), epoch, result, allowed, now)
            case EndRun(outcome=outcome, reason=reason):
                _end_run(connection, run, outcome, reason, now)


def _job(connection: sa.Connection, run: int, id: int) -> JobRecord:
    job = jobs.known(connection, id)
    if job.run != run:
        raise LookupError(f"job {id} belongs to run {job.run}, not to run {run}")
    return job


def _end_run(connection: sa.Connection, run: RunRecord, outcome: Outcome, reason: str, now: float) -> None:
    phase = step(f"run {run.id}", run.phase, Phase.DONE)
    unfinished = connection.execute(
        sa.select(jobs_table.c.name)
        .where(jobs_table.c.run == run.id, jobs_table.c.phase != Phase.DONE)
        .order_by(jobs_table.c.id)
        .limit(1)
    ).scalar_one_or_none()
    if unfinished is not None:
        raise IllegalTransition(f"run {run.id} cannot end before its job {unfinished}")
    here = runs_table.c.id == run.id
    connection.execute(
        sa.update(runs_table).where(here).values(phase=phase, outcome=outcome, reason=reason, ended=now)
    )
    runs.owe_end(connection, run.id, run.event, now)
