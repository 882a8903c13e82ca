"""Runs: planned from a delivery in one piece, found again, run again; at most one per workflow (I2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from runnerd.model import CalledFile, Event, Outcome, Phase, RunRecord
from runnerd.store import again, deliveries, jobs, outbox
from runnerd.store.changes import Again, NewRun, WorkflowNote
from runnerd.store.columns import clean, records
from runnerd.store.engine import insert_new
from runnerd.store.errors import IllegalTransition
from runnerd.store.phases import step
from runnerd.store.records import DeliveryState, Kind, ReportState
from runnerd.store.tables import notes, runs, sources

NOTHING = "no workflow is started by this event"
"""Why a delivery that was planned to no run at all is ignored."""

_record = [runs.c[name] for name in RunRecord.__struct_fields__]
_by_id = sa.select(*_record).where(runs.c.id == sa.bindparam("id"))
_of_delivery = (
    sa.select(runs.c.id)
    .where(runs.c.delivery == sa.bindparam("delivery"), runs.c.attempt == 1)
    .order_by(runs.c.id)
)
_last_number = sa.select(sa.func.max(runs.c.number)).where(
    runs.c.repository_id == sa.bindparam("repository_id"),
    runs.c.workflow_path == sa.bindparam("workflow_path"),
)
_open = sa.select(runs.c.id).where(runs.c.phase != Phase.DONE).order_by(runs.c.id)
_source = sa.select(sources.c.text).where(sources.c.sha256 == sa.bindparam("sha256"))
_insert = sa.insert(runs)
_update = sa.update(runs).where(runs.c.id == sa.bindparam("this"))
_new_source = {dialect: insert_new(dialect, sources) for dialect in ("sqlite", "postgresql")}


def find(connection: sa.Connection, id: int) -> RunRecord | None:
    """One run."""
    return next(iter(records(RunRecord, connection.execute(_by_id, {"id": id}))), None)


def known(connection: sa.Connection, id: int) -> RunRecord:
    """One run; raises LookupError when there is none."""
    run = find(connection, id)
    if run is None:
        raise LookupError(f"the ledger has no run {id}")
    return run


def latest(
    connection: sa.Connection, limit: int, before: int | None, repository: str | None
) -> list[RunRecord]:
    """Runs, newest first, older than the run `before`, of one repository or of all."""
    query = sa.select(*_record).order_by(runs.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(runs.c.id < before)
    if repository is not None:
        query = query.where(runs.c.repository == repository)
    return records(RunRecord, connection.execute(query))


def unfinished(connection: sa.Connection) -> list[int]:
    """The runs that have not ended, oldest first."""
    return list(connection.execute(_open).scalars())


def source(connection: sa.Connection, sha256: str) -> str:
    """A workflow file's text; raises LookupError for an unknown hash."""
    text = connection.execute(_source, {"sha256": sha256}).scalar_one_or_none()
    if text is None:
        raise LookupError(f"the ledger has no workflow file with sha256 {sha256}")
    return str(text)


def notes_of(connection: sa.Connection, delivery: str) -> list[WorkflowNote]:
    """What was said about each workflow file when the delivery was planned, by path."""
    query = sa.select(notes).where(notes.c.delivery == delivery).order_by(notes.c.path)
    return [
        WorkflowNote(path=row.path, matched=row.matched, reason=row.reason)
        for row in connection.execute(query)
    ]


def plan(
    connection: sa.Connection,
    delivery: str,
    planned: Sequence[NewRun],
    why: Sequence[WorkflowNote],
    now: float,
) -> list[int]:
    """Write all runs of a delivery with their jobs and first reports; see `Ledger.plan_delivery`."""
    paths = [run.workflow_path for run in planned]
    if len(set(paths)) != len(paths):
        raise ValueError(f"delivery {delivery} starts a workflow file twice: {', '.join(sorted(paths))}")
    if any(run.jobs and run.outcome is not None for run in planned):
        raise ValueError("a run that ends at birth has no jobs")
    if planned:
        fresh = deliveries.settle(connection, delivery, DeliveryState.PLANNED)
    else:
        fresh = deliveries.settle(connection, delivery, DeliveryState.IGNORED, NOTHING)
    if not fresh:
        return list(connection.execute(_of_delivery, {"delivery": delivery}).scalars())
    if why:
        rows = [{"delivery": delivery, **msgspec.structs.asdict(note)} for note in why]
        connection.execute(sa.insert(notes), rows)
    return [_write(connection, delivery, run, now) for run in planned]


def rerun(connection: sa.Connection, id: int, now: float, part: Again | None = None) -> int:
    """Write the next attempt of a run that has ended; see `Ledger.rerun`."""
    old = known(connection, id)
    if old.phase is not Phase.DONE:
        raise IllegalTransition(f"run {id} is {old.phase} and cannot be run again before it has ended")
    last = newest(connection, id)
    if part is not None and last.id != id:
        raise IllegalTransition(
            f"run {id} is attempt {old.attempt}, and jobs of the newest one alone can be run again: "
            f"that is run {last.id}, attempt {last.attempt}"
        )
    if last.phase is not Phase.DONE:  # of two at once, whichever ended last would stand at the commit
        raise IllegalTransition(
            f"run {id} runs again already: run {last.id}, attempt {last.attempt}, is {last.phase}"
        )
    plan, repository = connection.execute(
        sa.select(runs.c.plan, runs.c.repository_id).where(runs.c.id == id)
    ).one()
    if not plan:
        raise IllegalTransition(f"run {id} has no jobs to run again: {old.reason or 'none was planned'}")
    row = msgspec.structs.asdict(old)
    row.update(attempt=last.attempt + 1, phase=Phase.QUEUED, outcome=None, reason="", cancel_requested=False)
    row.update(created=now, started=None, ended=None, plan=plan, repository_id=repository)
    del row["id"]
    run = _insert_run(connection, row)
    if part is None:
        jobs.write(connection, run, plan, now)
    else:
        again.write(connection, id, run, part, now)
    _owe_gate(connection, run, old.gate, now)
    _comment(connection, run, old.event, ReportState.QUEUED, now)
    return run


def rerun_for(
    connection: sa.Connection, delivery: str, ids: Sequence[int], now: float, part: Again | None = None
) -> list[int]:
    """Settle a delivery by running these runs again; see `Ledger.rerun_for`."""
    if part is None:
        last = {run.id: run for run in (newest(connection, id) for id in ids)}
        ids = [id for id, run in last.items() if run.phase is Phase.DONE and _has_plan(connection, id)]
    why = "a run is run again" if ids else "the run that it asks for again has not ended, or has no jobs"
    if not deliveries.settle(connection, delivery, DeliveryState.PLANNED, why):
        return []
    return [rerun(connection, id, now, part) for id in ids]


def newest(connection: sa.Connection, id: int) -> RunRecord:
    """The last attempt of what this run is an attempt of."""
    run = known(connection, id)
    same = (runs.c.delivery == run.delivery, runs.c.workflow_path == run.workflow_path)
    last = sa.select(runs.c.id).where(*same).order_by(runs.c.attempt.desc()).limit(1)
    return known(connection, connection.execute(last).scalar_one())


def _has_plan(connection: sa.Connection, run: int) -> bool:
    return bool(connection.execute(sa.select(runs.c.plan).where(runs.c.id == run)).scalar_one())


def request_cancel(connection: sa.Connection, id: int) -> bool:
    """Mark a run that has not ended; False when it is too late or there is no such run."""
    here = (runs.c.id == id, runs.c.phase != Phase.DONE)
    return bool(connection.execute(sa.update(runs).where(*here).values(cancel_requested=True)).rowcount)


def start(connection: sa.Connection, run: RunRecord, now: float) -> RunRecord:
    """Begin a queued run, and return it as it is then; nothing when it runs already."""
    if run.phase is not Phase.QUEUED:
        return run
    start = {"phase": Phase.RUNNING, "started": now}
    connection.execute(_update, {"this": run.id, **start})
    _comment(connection, run.id, run.event, ReportState.IN_PROGRESS, now)
    return msgspec.structs.replace(run, **start)


def end(connection: sa.Connection, run: RunRecord, outcome: Outcome, reason: str, now: float) -> RunRecord:
    """End a run, none of whose jobs is open, and return it as it is then; owes its terminal report."""
    phase = step(f"run {run.id}", run.phase, Phase.DONE)
    end = {"phase": phase, "outcome": outcome, "reason": reason, "ended": now}
    connection.execute(_update, {"this": run.id, **end})
    _owe_end(connection, run.id, run.event, now)
    return msgspec.structs.replace(run, **end)


def _owe_end(connection: sa.Connection, run: int, event: Event, now: float) -> None:
    outbox.owe(connection, run, None, Kind.RUN, ReportState.COMPLETED, now)
    _comment(connection, run, event, ReportState.COMPLETED, now)


def _write(connection: sa.Connection, delivery: str, new: NewRun, now: float) -> int:
    sha256 = _keep(connection, new.source_text)
    called = {
        file.name: CalledFile(
            source=_keep(connection, file.text),
            repository=file.repository,
            path=file.path,
            ref=file.ref,
            sha=file.sha,
        )
        for file in new.called
    }
    event = msgspec.structs.replace(new.event, payload={})
    counter = {"repository_id": event.repository.id, "workflow_path": new.workflow_path}
    number = (connection.execute(_last_number, counter).scalar_one() or 0) + 1
    born_dead = new.outcome is not None
    run = _insert_run(
        connection,
        {
            "delivery": delivery,
            "repository": event.repository.full_name,
            "repository_id": event.repository.id,
            "workflow_path": new.workflow_path,
            "workflow_name": new.workflow_name,
            "title": new.title,
            "source": sha256,
            "event": event,
            "called": called,
            "number": number,
            "attempt": 1,
            "phase": Phase.DONE if born_dead else Phase.QUEUED,
            "outcome": new.outcome,
            "reason": new.reason,
            "cancel_requested": False,
            "gate": new.gate,
            "approval": None,
            "created": now,
            "started": None,
            "ended": now if born_dead else None,
            "plan": new.jobs,
        },
    )
    jobs.write(connection, run, new.jobs, now)
    if born_dead:
        _owe_end(connection, run, event, now)
    else:
        _owe_gate(connection, run, new.gate, now)
        _comment(connection, run, event, ReportState.QUEUED, now)
    return run


def _owe_gate(connection: sa.Connection, run: int, gate: str, now: float) -> None:
    """A run that waits for approval says so itself: none of its jobs has a name yet."""
    if gate:
        outbox.owe(connection, run, None, Kind.RUN, ReportState.QUEUED, now)


def _keep(connection: sa.Connection, source: str) -> str:
    """Store a file's text; returns its hash, made of what is stored, so that the two always agree."""
    text = clean(source)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    connection.execute(_new_source[connection.dialect.name], {"sha256": sha256, "text": text})
    return sha256


def _insert_run(connection: sa.Connection, row: dict[str, object]) -> int:
    key = connection.execute(_insert, row).inserted_primary_key
    assert key is not None
    return int(key[0])


def _comment(connection: sa.Connection, run: int, event: Event, state: ReportState, now: float) -> None:
    if event.number is not None:
        outbox.owe(connection, run, None, Kind.COMMENT, state, now)
