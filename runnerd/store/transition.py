"""One step of a run: the executor's decisions become rows and reports together, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from runnerd.model import JobRecord, JobResult, Outcome, Phase
from runnerd.store import jobs, runs
from runnerd.store.changes import Change, EndJob, EndRun, ExpandJob, QueueJob, SkipJob, StartRun
from runnerd.store.errors import IllegalTransition


def apply(connection: sa.Connection, run_id: int, changes: Sequence[Change], now: float) -> None:
    """Apply the changes in their order; see `Ledger.apply`."""
    run = runs.known(connection, run_id)
    for change in changes:
        if run.phase is Phase.DONE:
            raise IllegalTransition(f"run {run_id} has ended and cannot change: {type(change).__name__}")
        match change:
            case StartRun():
                runs.start(connection, run, now)
                run = runs.known(connection, run_id)
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
                _refuse_open_jobs(connection, run_id)
                runs.end(connection, run, outcome, reason, now)
                run = runs.known(connection, run_id)


def _job(connection: sa.Connection, run: int, id: int) -> JobRecord:
    job = jobs.known(connection, id)
    if job.run != run:
        raise LookupError(f"job {id} belongs to run {job.run}, not to run {run}")
    return job


def _refuse_open_jobs(connection: sa.Connection, run: int) -> None:
    job = jobs.first_open(connection, run)
    if job is not None:
        raise IllegalTransition(f"run {run} cannot end before its job {job}")
