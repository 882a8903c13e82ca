"""Jobs: their rows, their attempts, and the fence that keeps two attempts of one apart (I6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from runnerd.model import JobRecord, JobResult, Outcome, Phase, StepResult
from runnerd.store import machines, outbox, runs
from runnerd.store.changes import UNEXPANDED, NewJob
from runnerd.store.columns import records
from runnerd.store.errors import IllegalTransition, StaleEpoch
from runnerd.store.phases import step
from runnerd.store.records import Kind, ReportState
from runnerd.store.tables import calls, jobs
from runnerd.workflow.model import Call

NEEDS_NO_MACHINE = frozenset(
    {Outcome.CANCELLED, Outcome.SKIPPED, Outcome.STARTUP_FAILURE, Outcome.LOST, Outcome.INFRA_ERROR}
)
"""How a job may end of which no attempt runs: anything else needs an exit status that was received."""

_record = [jobs.c[name] for name in JobRecord.__struct_fields__]
_by_id = sa.select(*_record).where(jobs.c.id == sa.bindparam("id"))
_of_run = (
    sa.select(*_record)
    .where(jobs.c.run == sa.bindparam("run"))
    .order_by(jobs.c.position, jobs.c.leg, jobs.c.id)
)
_awaited = sa.select(jobs.c.resumes).where(jobs.c.phase != Phase.DONE, jobs.c.resumes != "")
_insert = sa.insert(jobs)
_update = sa.update(jobs).where(jobs.c.id == sa.bindparam("this"))
_running = sa.select(*_record).where(jobs.c.phase == Phase.RUNNING).order_by(jobs.c.id)
_open = (
    sa.select(jobs.c.name)
    .where(jobs.c.run == sa.bindparam("run"), jobs.c.phase != Phase.DONE)
    .order_by(jobs.c.id)
    .limit(1)
)
_visible = (
    sa.select(jobs.c.id)
    .where(jobs.c.run == sa.bindparam("run"), jobs.c.leg != UNEXPANDED)
    .order_by(jobs.c.id)
)

UNTOUCHED: dict[str, Any] = {
    "outcome": None,
    "reason": "",
    "step_started": False,
    "outputs": {},
    "steps": (),
    "annotations": (),
    "summary": "",
    "machine": "",
    "boot_id": "",
    "machine_id": "",
    "started": None,
    "ended": None,
    "not_kept": "",
}
"""What a job has before an attempt of it has done anything."""


def find(connection: sa.Connection, id: int) -> JobRecord | None:
    """One job."""
    return next(iter(records(JobRecord, connection.execute(_by_id, {"id": id}))), None)


def known(connection: sa.Connection, id: int) -> JobRecord:
    """One job; raises LookupError when there is none."""
    job = find(connection, id)
    if job is None:
        raise LookupError(f"the ledger has no job {id}")
    return job


def of_run(connection: sa.Connection, run: int) -> list[JobRecord]:
    """A run's jobs in the order of the file, legs in the order of the matrix."""
    return records(JobRecord, connection.execute(_of_run, {"run": run}))


def awaited(connection: sa.Connection) -> frozenset[str]:
    """What jobs that have not ended go on from, as `JobRecord.resumes` has it."""
    return frozenset(connection.execute(_awaited).scalars())


def write(connection: sa.Connection, run: int, new: Sequence[NewJob], now: float) -> None:
    """Add the jobs of a new run, and owe the first report of each whose name is known."""
    if not new:
        return
    position = {key: index for index, key in enumerate(dict.fromkeys(job.key for job in new))}
    rows = [planned(run, position[job.key], job) for job in new]
    connection.execute(_insert, rows)
    visible = connection.execute(_visible, {"run": run}).scalars()
    outbox.owe_first(connection, run, visible, Kind.JOB, ReportState.QUEUED, now)


def expand(connection: sa.Connection, run: int, key: str, legs: Sequence[NewJob], now: float) -> None:
    """Replace a job's one row without legs by its legs."""
    here = (jobs.c.run == run, jobs.c.key == key, jobs.c.leg == UNEXPANDED)
    row = connection.execute(sa.select(jobs.c.id, jobs.c.position, jobs.c.phase).where(*here)).one_or_none()
    if row is None or row.phase is not Phase.WAITING:
        raise IllegalTransition(f"job {key} of run {run} has its legs already, or has ended")
    if not legs or any(leg.key != key or leg.leg == UNEXPANDED for leg in legs):
        raise ValueError(f"job {key} of run {run} needs at least one leg, each its own and numbered")
    connection.execute(sa.delete(jobs).where(jobs.c.id == row.id))
    for leg in legs:
        key_of_row = connection.execute(_insert, planned(run, row.position, leg)).inserted_primary_key
        assert key_of_row is not None
        outbox.owe_first(connection, run, [key_of_row[0]], Kind.JOB, ReportState.QUEUED, now)


def enter(
    connection: sa.Connection, run: int, key: str, made: Sequence[Call], new: Sequence[NewJob], now: float
) -> None:
    """Record a job's calls, and replace its one row by the jobs that they bring in; see `EnterCalls`."""
    here = (jobs.c.run == run, jobs.c.key == key, jobs.c.leg == UNEXPANDED)
    row = connection.execute(sa.select(jobs.c.id, jobs.c.position, jobs.c.phase).where(*here)).one_or_none()
    if row is None or row.phase is not Phase.WAITING:
        raise IllegalTransition(f"job {key} of run {run} has made its calls already, or has ended")
    if not made or not new or any(call.key != key for call in made):
        raise ValueError(f"job {key} of run {run} needs at least one call with at least one job")
    connection.execute(sa.delete(jobs).where(jobs.c.id == row.id))
    connection.execute(sa.insert(calls), [{"run": run, **msgspec.structs.asdict(call)} for call in made])
    # At one place: within it they stand in the order in which they were written.
    connection.execute(_insert, [planned(run, row.position, job) for job in new])


def calls_of(connection: sa.Connection, run: int) -> list[Call]:
    """The calls that a run made, each job's in the order of its matrix."""
    query = sa.select(*(calls.c[name] for name in Call.__struct_fields__)).where(calls.c.run == run)
    rows = connection.execute(query.order_by(calls.c.key, calls.c.leg)).mappings()
    return [Call(**row) for row in rows]


def queue(connection: sa.Connection, job: JobRecord, now: float) -> None:
    """Let a waiting job start."""
    if job.leg == UNEXPANDED:
        raise IllegalTransition(f"{_name(job)} has no legs yet and cannot be queued")
    if job.phase is not Phase.WAITING:
        raise IllegalTransition(f"{_name(job)} is {job.phase} and cannot be queued")
    _set(connection, job.id, phase=step(_name(job), job.phase, Phase.QUEUED), queued=now)


def end(
    connection: sa.Connection,
    job: JobRecord,
    epoch: int,
    result: JobResult,
    allowed_to_fail: bool | None,
    now: float,
) -> None:
    """End an attempt, and the job with it; owes the terminal report."""
    if epoch != job.epoch:
        raise StaleEpoch(f"{_name(job)} is at attempt {job.epoch}: attempt {epoch} may not end it")
    phase = step(_name(job), job.phase, Phase.DONE)
    if job.phase is not Phase.RUNNING and result.outcome not in NEEDS_NO_MACHINE:
        raise StaleEpoch(f"{_name(job)} is {job.phase}: no attempt of it runs that could be {result.outcome}")
    _set(
        connection,
        job.id,
        phase=phase,
        outcome=result.outcome,
        allowed_to_fail=job.allowed_to_fail if allowed_to_fail is None else allowed_to_fail,
        reason=result.reason,
        outputs=result.outputs,
        not_kept=result.not_kept,
        steps=result.steps or job.steps,
        annotations=result.annotations,
        summary=result.summary,
        ended=now,
    )
    outbox.owe(connection, job.run, job.id, Kind.JOB, ReportState.COMPLETED, now)


def claim(
    connection: sa.Connection,
    id: int,
    machine: str,
    now: float,
    *,
    who: tuple[str, str] = ("", ""),
    though_cancelled: bool = False,
) -> int | None:
    """Give a queued job to a machine under a new epoch, and begin its run; None when it may not run now."""
    job = known(connection, id)
    run = runs.known(connection, job.run)
    called_off = run.cancel_requested and not though_cancelled
    if job.phase is not Phase.QUEUED or called_off or run.phase is Phase.DONE:
        return None
    phase = step(_name(job), job.phase, Phase.RUNNING)
    boot_id, machine_id = who
    ours = {"machine": machine, "boot_id": boot_id, "machine_id": machine_id}
    fresh = {**UNTOUCHED, **ours, "started": now}
    _set(connection, id, phase=phase, epoch=job.epoch + 1, **fresh)
    machines.claim(connection, machine, id, job.epoch + 1)
    runs.start(connection, run, now)
    outbox.owe(connection, job.run, id, Kind.JOB, ReportState.IN_PROGRESS, now)
    return job.epoch + 1


def retry(connection: sa.Connection, id: int, epoch: int, reason: str, now: float) -> None:
    """Put a running job back into the queue; its attempt is over."""
    job = fenced(connection, id, epoch)
    phase = step(_name(job), job.phase, Phase.QUEUED)
    _set(connection, id, phase=phase, queued=now, **{**UNTOUCHED, "reason": reason})
    outbox.owe(connection, job.run, id, Kind.JOB, ReportState.QUEUED, now)


def begin_step(connection: sa.Connection, id: int, epoch: int) -> None:
    """From here on the attempt has had effects: it is not repeated by itself."""
    if not fenced(connection, id, epoch).step_started:
        _set(connection, id, step_started=True)


def end_step(connection: sa.Connection, id: int, epoch: int, result: StepResult) -> None:
    """Record a step that ended, in place of an earlier record of the same step."""
    job = fenced(connection, id, epoch)
    steps = {step.number: step for step in (*job.steps, result)}
    _set(connection, id, steps=tuple(steps[number] for number in sorted(steps)))


def move(connection: sa.Connection, id: int, epoch: int, machine: str, boot_id: str, machine_id: str) -> None:
    """Record that the attempt goes on in another machine, with that one's own word on which it is."""
    fenced(connection, id, epoch)
    _set(connection, id, machine=machine, boot_id=boot_id, machine_id=machine_id)


def fenced(connection: sa.Connection, id: int, epoch: int) -> JobRecord:
    """The job, if this attempt of it runs; raises `StaleEpoch` otherwise, LookupError if there is none."""
    job = known(connection, id)
    if job.epoch != epoch or job.phase is not Phase.RUNNING:
        raise StaleEpoch(f"{_name(job)} is {job.phase} at attempt {job.epoch}: attempt {epoch} is over")
    return job


def first_open(connection: sa.Connection, run: int) -> str | None:
    """The name of a job of the run that has not ended; None when all have."""
    return connection.execute(_open, {"run": run}).scalar_one_or_none()


def running(connection: sa.Connection) -> list[JobRecord]:
    """Every job that a machine was given to and that has not ended, oldest first."""
    return records(JobRecord, connection.execute(_running))


def planned(run: int, position: int, job: NewJob) -> dict[str, Any]:
    """The row of a job that begins its life; those of a file's job have its place in the file in common."""
    return {
        **UNTOUCHED,
        **msgspec.structs.asdict(job),
        "run": run,
        "position": position,
        "phase": Phase.WAITING,
        "epoch": 0,
        "queued": None,
        "resumes": "",
        "carried": "",
    }


def _set(connection: sa.Connection, id: int, **values: Any) -> None:
    # Which columns are set follows from the parameters, so that each set of them is compiled once.
    connection.execute(_update, {"this": id, **values})


def _name(job: JobRecord) -> str:
    return f"job {job.id} ({job.name}) of run {job.run}"
