"""One step of a run: the executor's decisions become rows and reports together, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from runnerd.model import JobRecord, JobResult, Outcome, Phase
from runnerd.store import groups, jobs, runs
from runnerd.store.changes import (
    Change,
    EndJob,
    EndRun,
    EnterCalls,
    ExpandJob,
    JoinGroup,
    LeaveGroup,
    QueueJob,
    SkipJob,
    StartRun,
)
from runnerd.store.errors import IllegalTransition


def apply(connection: sa.Connection, run_id: int, changes: Sequence[Change], now: float) -> frozenset[int]:
    """Apply the changes in their order; see `Ledger.apply`."""
    run = runs.known(connection, run_id)
    touched: set[int] = set()
    for change in changes:
        if run.phase is Phase.DONE:
            raise IllegalTransition(f"run {run_id} has ended and cannot change: {type(change).__name__}")
        match change:
            case StartRun():
                run = runs.start(connection, run, now)
            case ExpandJob(key=key, legs=legs):
                jobs.expand(connection, run_id, key, legs, now)
            case EnterCalls(key=key, calls=calls, jobs=new):
                jobs.enter(connection, run_id, key, calls, new, now)
            case JoinGroup(key=key, leg=leg, group=group, cancels=cancels, queue=queue):
                touched |= groups.join(connection, run, key, leg, group, cancels, queue)
            case LeaveGroup(key=key, leg=leg):
                touched |= groups.end(connection, run_id, key, leg)
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
                run = runs.end(connection, run, outcome, reason, now)
                touched |= groups.end(connection, run_id)
    return frozenset(touched - {run_id})


def _job(connection: sa.Connection, run: int, id: int) -> JobRecord:
    job = jobs.known(connection, id)
    if job.run != run:
        raise LookupError(f"job {id} belongs to run {job.run}, not to run {run}")
    return job


def _refuse_open_jobs(connection: sa.Connection, run: int) -> None:
    job = jobs.first_open(connection, run)
    if job is not None:
        raise IllegalTransition(f"run {run} cannot end before its job {job}")
