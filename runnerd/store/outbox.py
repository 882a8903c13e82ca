"""The outbox: what a forge shall hear, written with the change it tells of, sent at least once (I4)."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from runnerd.store.records import Backlog, Kind, OutboxRow, ReportState
from runnerd.store.tables import outbox, runs

ERROR_LIMIT = 1000
"""Characters kept of why a report could not be sent."""


_columns = [outbox.c[name] for name in OutboxRow.__struct_fields__]
# The parameters have names of their own: a column's name in an UPDATE would be its new value.
_this = outbox.c.id == sa.bindparam("row")
_older = sa.delete(outbox).where(
    outbox.c.run == sa.bindparam("of_run"),
    outbox.c.job.is_not_distinct_from(sa.bindparam("of_job", type_=sa.Integer)),
    outbox.c.kind == sa.bindparam("of_kind"),
    outbox.c.state != ReportState.COMPLETED,
    outbox.c.sent.is_(None),
)
_insert = sa.insert(outbox)
_due = (
    sa.select(*_columns)
    .where(outbox.c.sent.is_(None), outbox.c.due <= sa.bindparam("now"))
    .order_by(outbox.c.id)
    .limit(sa.bindparam("limit"))
)
_depth = sa.select(sa.func.count()).where(outbox.c.sent.is_(None))
_sent = sa.update(outbox).where(_this).values(sent=sa.bindparam("now"), error=sa.bindparam("why"))
_again = (
    sa.update(outbox)
    .where(_this, outbox.c.sent.is_(None))
    .values(attempts=outbox.c.attempts + 1, due=sa.bindparam("at"), error=sa.bindparam("why"))
)
_put_off = (
    sa.update(outbox)
    .where(
        outbox.c.sent.is_(None),
        outbox.c.due < sa.bindparam("at"),
        outbox.c.run.in_(sa.select(runs.c.id).where(runs.c.repository == sa.bindparam("of"))),
    )
    .values(due=sa.bindparam("at"), error=sa.bindparam("why"))
)
_oldest = (
    sa.select(outbox.c.created, outbox.c.due).where(outbox.c.sent.is_(None)).order_by(outbox.c.id).limit(1)
)
_last_error = (
    sa.select(outbox.c.error)
    .where(outbox.c.sent.is_(None), outbox.c.error != "")
    .order_by(outbox.c.due.desc(), outbox.c.id.desc())
    .limit(1)
)


def owe(
    connection: sa.Connection, run: int, job: int | None, kind: Kind, state: ReportState, now: float
) -> None:
    """Owe a report. It takes the place of older ones of the same subject that were not sent,
    except terminal ones, which are never dropped."""
    connection.execute(_older, {"of_run": run, "of_job": job, "of_kind": kind})
    owe_first(connection, run, [job], kind, state, now)


def owe_first(
    connection: sa.Connection,
    run: int,
    jobs: Iterable[int | None],
    kind: Kind,
    state: ReportState,
    now: float,
) -> None:
    """Owe the first report of each of these jobs, or of the run (None), of which none was owed before."""
    rows = [
        {
            "run": run,
            "job": job,
            "kind": kind,
            "state": state,
            "attempts": 0,
            "created": now,
            "due": now,
            "error": "",
        }
        for job in jobs
    ]
    if rows:
        connection.execute(_insert, rows)


def due(connection: sa.Connection, now: float, limit: int) -> list[OutboxRow]:
    """What is to be sent now, oldest first."""
    rows = connection.execute(_due, {"now": now, "limit": limit}).mappings()
    return [OutboxRow(**row) for row in rows]


def done(connection: sa.Connection, id: int, now: float, note: str) -> None:
    """A report was sent; nothing when a newer one took its place meanwhile."""
    connection.execute(_sent, {"row": id, "now": now, "why": note[:ERROR_LIMIT]})


def retry(connection: sa.Connection, id: int, at: float, error: str) -> None:
    """Sending failed: not before `at` again; nothing when a newer one took its place meanwhile."""
    connection.execute(_again, {"row": id, "at": at, "why": error[:ERROR_LIMIT]})


def depth(connection: sa.Connection) -> int:
    """How many reports are owed."""
    return int(connection.execute(_depth).scalar_one())


def put_off(connection: sa.Connection, repository: str, at: float, error: str) -> None:
    """Nothing about this repository is due before `at`; no attempt is counted."""
    connection.execute(_put_off, {"of": repository, "at": at, "why": error[:ERROR_LIMIT]})


def backlog(connection: sa.Connection) -> Backlog:
    """What is owed, at a glance."""
    oldest = connection.execute(_oldest).first()
    if oldest is None:
        return Backlog(owed=0)
    error = connection.execute(_last_error).scalar_one_or_none() or ""
    return Backlog(owed=depth(connection), oldest=oldest.created, due=oldest.due, problem=error)
