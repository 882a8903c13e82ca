"""Concurrency groups in the ledger: who came, who goes on; decided in the transaction of the cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from runnerd.model import Phase, RunRecord
from runnerd.store.tables import jobs, members, runs
from runnerd.workflow.concurrency import Entry, Move, Standing, arrive, key_of, leave

_ALIVE = (Standing.WAITING, Standing.HOLDING, Standing.STOPPING)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One run, job or call in a concurrency group; `key` and `leg` as `JoinGroup` has them."""

    key: str
    leg: int
    shown: str
    """The group as it was written."""
    standing: Standing
    reason: str
    """Why it waits, was called off or was asked to stop."""


def of_run(connection: sa.Connection, run: int) -> list[Member]:
    """Everything of a run that came to a group, in order."""
    columns = [members.c[name] for name in Member.__struct_fields__]
    query = sa.select(*columns).where(members.c.run == run).order_by(members.c.id)
    return [Member(**row) for row in connection.execute(query).mappings()]


def join(
    connection: sa.Connection, run: RunRecord, key: str, leg: int, group: str, cancels: bool, queue: str
) -> set[int]:
    """Come to a group; returns the runs for which something changed. See `JoinGroup`."""
    mine = (members.c.run == run.id, members.c.key == key, members.c.leg == leg)
    if connection.execute(sa.select(members.c.id).where(*mine)).one_or_none() is not None:
        return set()
    repository = _repository(connection, run.id)
    here = _entries(connection, repository, key_of(group))
    part = f"job {key.rstrip('/')!r} of " if key else ""
    who = f"{part}run {run.id} ({run.workflow_name})"
    row = {
        "repository_id": repository,
        "group": key_of(group),
        "shown": group,
        "run": run.id,
        "key": key,
        "leg": leg,
        "who": who,
        "cancels": cancels,
        "queue": queue,
        "standing": Standing.WAITING,
        "reason": "",
    }
    inserted = connection.execute(sa.insert(members), row).inserted_primary_key
    assert inserted is not None
    newcomer = Entry(id=int(inserted[0]), who=who, cancels=cancels, queue=queue)
    return _move(connection, arrive(here, newcomer))


def end(connection: sa.Connection, run: int, key: str | None = None, leg: int = 0) -> set[int]:
    """What came to a group has ended, or the whole run; returns the runs for which something changed."""
    mine = [members.c.run == run, members.c.standing != Standing.OVER]
    if key is not None:
        mine += [members.c.key == key, members.c.leg == leg]
    query = sa.select(members.c.id, members.c.repository_id, members.c.group).where(*mine)
    changed: set[int] = set()
    for row in connection.execute(query).all():
        changed |= _move(connection, leave(_entries(connection, row.repository_id, row.group), row.id))
    return changed


def _entries(connection: sa.Connection, repository: int, group: str) -> list[Entry]:
    columns = [members.c[name] for name in Entry.__struct_fields__]
    here = (
        members.c.repository_id == repository,
        members.c.group == group,
        members.c.standing.in_(_ALIVE),
    )
    query = sa.select(*columns).where(*here).order_by(members.c.id)
    return [Entry(**row) for row in connection.execute(query).mappings()]


def _move(connection: sa.Connection, moves: Sequence[Move]) -> set[int]:
    for move in moves:
        values = {"standing": move.standing, "reason": move.reason}
        if move.standing is Standing.OVER:
            del values["reason"]  # what was said of it last stays true of how it went
        connection.execute(sa.update(members).where(members.c.id == move.id).values(**values))
    moved = sa.select(members).where(members.c.id.in_([move.id for move in moves]))
    rows = connection.execute(moved).all()
    for row in rows:
        _explain(connection, row)
    return {row.run for row in rows}


def _explain(connection: sa.Connection, row: Any) -> None:
    """Say at the run or the job itself why it waits, for who looks at it."""
    if row.standing not in (Standing.WAITING, Standing.HOLDING):
        return
    if row.key:
        here = (jobs.c.run == row.run, jobs.c.key == row.key, jobs.c.leg == row.leg)
        update = sa.update(jobs).where(*here, jobs.c.phase == Phase.WAITING)
    else:
        update = sa.update(runs).where(runs.c.id == row.run, runs.c.phase != Phase.DONE)
    connection.execute(update.values(reason=row.reason))


def _repository(connection: sa.Connection, run: int) -> int:
    return int(connection.execute(sa.select(runs.c.repository_id).where(runs.c.id == run)).scalar_one())
