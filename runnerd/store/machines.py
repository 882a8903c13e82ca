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

_DOES_NOT_COME_UP = "it did not come up"
_STAGES = tuple(Stage)
_TIMES = {Stage.WARM: "warm", Stage.LEASED: "leased", Stage.GONE: "ended"}


def _moves_to(stage: Stage) -> sa.Update:
    """The statement for a machine that enters a stage from an earlier one, or of which more is told."""
    c, earlier = machines.c, _STAGES[: max(1, _STAGES.index(stage))]
    given: dict[str, Any] = {
        name: sa.func.coalesce(sa.bindparam(f"new_{name}", type_=c[name].type), c[name])
        for name in ("pid", "uid", "started", "job")
    }
    why = sa.bindparam("new_why", type_=c.why.type)
    given["why"] = sa.case((c.why == "", why), else_=c.why)
    if stage is Stage.GONE:
        never = sa.case((c.stage == Stage.BUILDING, _DOES_NOT_COME_UP), else_="")
        given["why"] = sa.case((why != "", why), (c.why != "", c.why), else_=never)
    if stage in _TIMES:
        given[_TIMES[stage]] = sa.bindparam("now")
    if stage is Stage.LEASED:
        given["asked"] = sa.bindparam("new_asked")
        # The attempt of a machine that takes another's place under a running job.
        running = (jobs.c.id == sa.bindparam("new_job"), jobs.c.phase == Phase.RUNNING)
        given["epoch"] = sa.select(jobs.c.epoch).where(*running).scalar_subquery()
    here = (c.id == sa.bindparam("this"), sa.or_(*(c.stage == each for each in earlier)))
    return sa.update(machines).where(*here).values(stage=stage, **given)


# Made once: notes are many, and each costs the one writer time that jobs wait for.
_move = {stage: _moves_to(stage) for stage in Stage}
_stage = sa.select(machines.c.stage).where(machines.c.id == sa.bindparam("this"))
_insert = sa.insert(machines)
_strike = sa.delete(machines).where(machines.c.id == sa.bindparam("this"))
_explain = (
    sa.update(machines)
    .where(machines.c.id == sa.bindparam("this"), machines.c.why == "")
    .values(why=sa.bindparam("new_why"))
)
_leave = _explain.where(machines.c.stage.not_in((Stage.LEAVING, Stage.GONE))).values(stage=Stage.LEAVING)
_claim = (
    sa.update(machines)
    .where(machines.c.id == sa.bindparam("this"))
    .values(job=sa.bindparam("new_job"), epoch=sa.bindparam("new_epoch"))
)
_one_too_many = (
    sa.select(machines.c.ended)
    .where(machines.c.ended.is_not(None))
    .order_by(machines.c.ended.desc())
    .offset(sa.bindparam("most"))
    .limit(1)
    .scalar_subquery()
)
_prune = sa.delete(machines).where(
    sa.or_(machines.c.ended < sa.bindparam("since"), machines.c.ended <= _one_too_many)
)


def note(connection: sa.Connection, news: MachineNews, now: float) -> None:
    """Write down what is about to become of a machine.

    Its stage only ever moves on; what comes late may still say why. One that is begun anew under a name
    that was used before takes the old one's place.
    """
    values = {
        "this": news.id,
        "new_pid": news.pid,
        "new_uid": news.uid,
        "new_started": news.started,
        "new_job": news.job,
        "new_why": news.why,
    }
    if news.stage in _TIMES:
        values["now"] = now
    if news.stage is Stage.LEASED:
        values["new_asked"] = now - news.waited
    if connection.execute(_move[news.stage], values).rowcount:
        return
    stage = connection.execute(_stage, {"this": news.id}).scalar_one_or_none()
    if stage is Stage.GONE and news.stage in (Stage.BUILDING, Stage.WARM):
        connection.execute(_strike, {"this": news.id})
        stage = None
    if stage is not None:
        connection.execute(_explain, {"this": news.id, "new_why": news.why})
    elif news.stage is not Stage.GONE:  # nobody began it: there is nothing to tell
        prune(connection, now)
        new = {"id": news.id, "driver": news.driver, "image": news.image, "stage": Stage.BUILDING, "why": ""}
        connection.execute(_insert, {**new, "started": 0.0, "made": now})
        connection.execute(_move[news.stage], values)


def claim(connection: sa.Connection, id: str, job: int, epoch: int) -> None:
    """A job begins on a machine under this epoch; nothing where no journal is kept."""
    connection.execute(_claim, {"this": id, "new_job": job, "new_epoch": epoch})


def leave(connection: sa.Connection, id: str, why: str) -> None:
    """A machine is about to end for this reason, unless the journal has another, or does not know it."""
    connection.execute(_leave, {"this": id, "new_why": why})


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
    """Strike machines that are gone for longer than `KEPT`, and the oldest beyond `MOST`; see `note`."""
    connection.execute(_prune, {"since": now - KEPT, "most": MOST})


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[MachineRow]:
    return [MachineRow(**row) for row in connection.execute(query).mappings()]
