"""Schedules of default branches, and each of their starts as a delivery: exactly one per minute due."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from runnerd.model import Repository
from runnerd.store import deliveries
from runnerd.store.records import Delivery, ScheduleRow
from runnerd.store.tables import schedules

_record = [schedules.c[name] for name in ScheduleRow.__struct_fields__]
_order = (schedules.c.name, schedules.c.path, schedules.c.cron, schedules.c.zone)


def listed(connection: sa.Connection) -> list[ScheduleRow]:
    """Every schedule that is kept."""
    return [
        ScheduleRow(**row) for row in connection.execute(sa.select(*_record).order_by(*_order)).mappings()
    ]


def keep(
    connection: sa.Connection, repository: Repository, wanted: Collection[tuple[str, str, str]], minute: int
) -> None:
    """Make these (path, cron, zone) the repository's schedules.

    What is new counts from `minute` on, what stays keeps its time, the rest is forgotten.
    """
    name, number = repository.full_name, repository.id
    if number:
        renamed = (schedules.c.repository_id == number, schedules.c.name != name)
        connection.execute(sa.delete(schedules).where(*renamed))
    mine = schedules.c.name == name
    rows = connection.execute(sa.select(schedules.c.path, schedules.c.cron, schedules.c.zone).where(mine))
    had = {(row.path, row.cron, row.zone) for row in rows}
    for gone in had.difference(wanted):
        connection.execute(sa.delete(schedules).where(*_is(name, *gone)))
    connection.execute(sa.update(schedules).where(mine).values(repository=repository))
    new = [
        {"name": name, "repository_id": number, "path": path, "cron": cron, "zone": zone}
        for path, cron, zone in sorted(set(wanted).difference(had))
    ]
    start = {"repository": repository, "looked": minute, "fired": None}
    if new:
        connection.execute(sa.insert(schedules), [{**row, **start} for row in new])


def start(connection: sa.Connection, row: ScheduleRow, looked: int, fired: int, delivery: Delivery) -> bool:
    """Store the delivery of a start and remember its minute, both or neither; False when it was before.

    Nothing is stored for a schedule that is not kept any more or was decided meanwhile.
    """
    here = (*_is(row.repository.full_name, row.path, row.cron, row.zone), schedules.c.looked < looked)
    done = connection.execute(sa.update(schedules).where(*here).values(looked=looked, fired=fired))
    return bool(done.rowcount) and deliveries.accept(connection, delivery) == "accepted"


def look(connection: sa.Connection, minute: int) -> None:
    """Remember that everything up to this minute was decided."""
    connection.execute(sa.update(schedules).where(schedules.c.looked < minute).values(looked=minute))


def _is(name: str, path: str, cron: str, zone: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        schedules.c.name == name,
        schedules.c.path == path,
        schedules.c.cron == cron,
        schedules.c.zone == zone,
    )
