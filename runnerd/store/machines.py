"""The journal of machines: each transition is written before its side effect, so that none is unseen (I5)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from runnerd.model import Phase
from runnerd.store.records import MachineNews, MachineRow, Stage
from runnerd.store.tables import jobs, machines

KEPT = 24 * 3600.0
"""Seconds for which a machine that is gone stays in the journal."""
MOST = 5000
"""Machines that are gone and stay in the journal, whatever their age."""

_ORDER = {stage: number for number, stage in enumerate(Stage)}
_TIMES = {Stage.WARM: "warm", Stage.LEASED: "leased", Stage.GONE: "ended"}
_DOES_NOT_COME_UP = "it did not come up"


def note(connection: sa.Connection, news: MachineNews, now: float) -> None:
    """Write down what is about to become of a machine.

    Its stage only ever moves on; what comes late may still say why. One that is begun anew under a name
    that was used before takes the old one's place.
    """
    here = machines.c.id == news.id
    query = sa.select(machines.c.stage, machines.c.why).where(here)
    row = connection.execute(query).one_or_none()
    if row is not None and row.stage is Stage.GONE and news.stage in (Stage.BUILDING, Stage.WARM):
        connection.execute(sa.delete(machines).where(here))
        row = None
    if row is None and news.stage is Stage.GONE:
        return  # nobody began it: there is nothing to tell
    if row is None:
        new = {"id": news.id, "driver": news.driver, "image": news.image, "stage": Stage.BUILDING}
        connection.execute(sa.insert(machines), {**new, "started": 0.0, "made": now})
        row = connection.execute(query).one()
    known = {"pid": news.pid, "uid": news.uid, "started": news.started, "job": news.job}
    values: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
    if _ORDER[news.stage] > _ORDER[row.stage]:
        values["stage"] = news.stage
        if news.stage in _TIMES:
            values[_TIMES[news.stage]] = now
        if news.stage is Stage.LEASED:
            values["asked"] = now - news.waited
    if news.stage is Stage.GONE and news.why:
        values["why"] = news.why
    elif not row.why:
        never = news.stage is Stage.GONE and row.stage is Stage.BUILDING
        values["why"] = news.why or (_DOES_NOT_COME_UP if never else "")
    if values:
        connection.execute(sa.update(machines).where(here).values(**values))
    if news.job is not None:
        # A machine that takes another's place under a running job.
        running = sa.select(jobs.c.epoch).where(jobs.c.id == news.job, jobs.c.phase == Phase.RUNNING)
        connection.execute(sa.update(machines).where(here).values(epoch=running.scalar_subquery()))
    if news.stage is Stage.GONE:
        prune(connection, now)


def claim(connection: sa.Connection, id: str, job: int, epoch: int) -> None:
    """A job begins on a machine under this epoch; nothing where no journal is kept."""
    values = {"job": job, "epoch": epoch}
    connection.execute(sa.update(machines).where(machines.c.id == id).values(**values))


def leave(connection: sa.Connection, id: str, why: str) -> None:
    """A machine is about to end for this reason, unless the journal has another, or does not know it."""
    here = (machines.c.id == id, machines.c.why == "", machines.c.stage.not_in((Stage.LEAVING, Stage.GONE)))
    connection.execute(sa.update(machines).where(*here).values(stage=Stage.LEAVING, why=why))


def alive(connection: sa.Connection) -> list[MachineRow]:
    """Every machine that may exist, oldest first."""
    query = sa.select(machines).where(machines.c.stage != Stage.GONE)
    return _rows(connection, query.order_by(machines.c.made, machines.c.id))


def history(connection: sa.Connection, limit: int) -> list[MachineRow]:
    """The machines that exist, and those that are gone and still in the journal, the newest first."""
    query = sa.select(machines)
    return _rows(connection, query.order_by(machines.c.made.desc(), machines.c.id.desc()).limit(limit))


def leases(connection: sa.Connection, since: float) -> list[tuple[str, float]]:
    """(image, when it was asked for) of what was asked for after `since`, oldest first; not of a kept one."""
    here = (machines.c.asked >= since, machines.c.warm.is_not(None))
    query = sa.select(machines.c.image, machines.c.asked).where(*here)
    return [(row.image, row.asked) for row in connection.execute(query.order_by(machines.c.asked))]


def of_attempt(connection: sa.Connection, job: int, epoch: int) -> MachineRow | None:
    """The machine that an attempt of a job had last."""
    query = sa.select(machines).where(machines.c.job == job, machines.c.epoch == epoch)
    found = _rows(connection, query.order_by(machines.c.made.desc()).limit(1))
    return found[0] if found else None


def prune(connection: sa.Connection, now: float) -> None:
    """Strike machines that are gone for longer than `KEPT`, and the oldest beyond `MOST`."""
    connection.execute(sa.delete(machines).where(machines.c.ended < now - KEPT))
    gone = sa.select(machines.c.ended).where(machines.c.ended.is_not(None)).order_by(machines.c.ended.desc())
    last = connection.execute(gone.offset(MOST).limit(1)).scalar_one_or_none()
    if last is not None:
        connection.execute(sa.delete(machines).where(machines.c.ended <= last))


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[MachineRow]:
    return [MachineRow(**row) for row in connection.execute(query).mappings()]
