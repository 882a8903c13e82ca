"""Another attempt of a part of a run: the jobs that run again, and those carried over as they ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from runnerd.model import Phase
from runnerd.store import jobs, outbox
from runnerd.store.changes import UNEXPANDED, Again, NewJob
from runnerd.store.errors import IllegalTransition
from runnerd.store.records import Kind, ReportState
from runnerd.store.tables import calls
from runnerd.store.tables import jobs as table
from runnerd.workflow.calls import callers_of


def write(connection: sa.Connection, old: int, new: int, again: Again, now: float) -> None:
    """Give the run `new` the jobs of the run `old`, which has ended; see `Ledger.rerun`.

    What is carried over owes no report: the forge heard how it ended, under the same name. Raises
    `IllegalTransition` for a job that the old run has not, and when none would run again.
    """
    rows = connection.execute(sa.select(table).where(table.c.run == old).order_by(table.c.id)).mappings()
    left = set(again.jobs)
    anew = {job.key: job for job in again.anew}
    begun: set[str] = set()
    for row in rows:
        left.discard(row["id"])
        if (key := _within(row["key"], anew)) is not None:
            if key not in begun:
                _insert(connection, jobs.planned(new, row["position"], anew[key]))
            begun.add(key)
        elif row["id"] in again.jobs:
            values = {**row, **jobs.UNTOUCHED, "phase": Phase.WAITING, "epoch": 0, "queued": None}
            values |= {"run": new, "carried": "", "resumes": again.resumes.get(row["id"], "")}
            id = _insert(connection, values)
            if row["leg"] != UNEXPANDED:
                outbox.owe_first(connection, new, [id], Kind.JOB, ReportState.QUEUED, now)
        else:
            _insert(connection, {**row, "run": new, "carried": row["carried"] or f"{old}/{row['id']}"})
    if left or begun != set(anew) or not (again.jobs or anew):
        missing = [str(id) for id in sorted(left)] + sorted(set(anew) - begun)
        raise IllegalTransition(f"run {old} has no job {', '.join(missing) or 'to run again'}")
    made = connection.execute(sa.select(calls).where(calls.c.run == old)).mappings()
    if kept := [{**call, "run": new} for call in made if _within(call["key"], anew) is None]:
        connection.execute(sa.insert(calls), kept)


def _within(key: str, anew: Mapping[str, NewJob]) -> str | None:
    """The job that is made anew and is this one, or has called it; None where there is none."""
    return next((caller for caller in callers_of(key) if caller in anew), None)


def _insert(connection: sa.Connection, values: Mapping[str, Any]) -> int:
    row = {name: value for name, value in values.items() if name != "id"}
    key = connection.execute(sa.insert(table), row).inserted_primary_key
    assert key is not None
    return int(key[0])
