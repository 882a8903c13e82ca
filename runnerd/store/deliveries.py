"""Deliveries: stored once by their id, and each ending in a recorded state (I1, I3)."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from runnerd.store.engine import insert_new
from runnerd.store.errors import IllegalTransition
from runnerd.store.records import Delivery, DeliveryRecord, DeliveryState
from runnerd.store.tables import deliveries

SHARES = 40
"""How many repositories a long backlog has room for at least, each with its oldest."""

Accepted = Literal["accepted", "duplicate", "held"]


_record = [deliveries.c[name] for name in DeliveryRecord.__struct_fields__]
_by_id = sa.select(*_record).where(deliveries.c.id == sa.bindparam("id"))
_state_of = sa.select(deliveries.c.state).where(deliveries.c.id == sa.bindparam("id"))
_pending = (
    sa.select(deliveries.c.id)
    .where(deliveries.c.state == DeliveryState.PENDING)
    .order_by(deliveries.c.received, deliveries.c.id)
    .limit(sa.bindparam("limit"))
)
_backlog = _pending.add_columns(deliveries.c.repository)
_ranked = (
    sa.select(
        deliveries.c.id,
        deliveries.c.repository,
        deliveries.c.received,
        sa.func.row_number()
        .over(partition_by=deliveries.c.repository, order_by=(deliveries.c.received, deliveries.c.id))
        .label("rank"),
    )
    .where(deliveries.c.state == DeliveryState.PENDING)
    .subquery()
)
_fair = (
    sa.select(_ranked.c.id, _ranked.c.repository)
    .where(_ranked.c.rank <= sa.bindparam("share"))
    .order_by(_ranked.c.received, _ranked.c.id)
    .limit(sa.bindparam("limit"))
)
_held = (
    sa.select(deliveries.c.id, deliveries.c.repository, deliveries.c.received, deliveries.c.remark)
    .where(deliveries.c.state == DeliveryState.HELD)
    .order_by(deliveries.c.received, deliveries.c.id)
    .limit(sa.bindparam("limit"))
)
_twin = (
    sa.select(deliveries.c.id)
    .where(deliveries.c.sha256 == sa.bindparam("sha256"), deliveries.c.id != sa.bindparam("id"))
    .limit(1)
)
_update = sa.update(deliveries).where(deliveries.c.id == sa.bindparam("this"))
_new = {dialect: insert_new(dialect, deliveries) for dialect in ("sqlite", "postgresql")}


def accept(connection: sa.Connection, delivery: Delivery) -> Accepted:
    """Store a delivery unless its id is known; hold one whose body is, where that is asked for."""
    sha256 = hashlib.sha256(delivery.body).hexdigest()
    held, remark = False, ""
    if delivery.repeated != "fine":
        twin = connection.execute(_twin, {"sha256": sha256, "id": delivery.id}).scalar_one_or_none()
        if twin is not None:
            held, remark = delivery.repeated == "hold", f"its body came before, as delivery {twin}"
            if not held:
                remark += "; the forge could not be asked whether it sent both"
    row = {
        "id": delivery.id,
        "event": delivery.event,
        "headers": dict(delivery.headers),
        "body": delivery.body,
        "received": delivery.received,
        "repository": delivery.repository,
        "hook_id": delivery.hook_id,
        "state": DeliveryState.HELD if held else DeliveryState.PENDING,
        "reason": "",
        "attempts": 0,
        "sha256": sha256,
        "remark": remark,
    }
    if not connection.execute(_new[connection.dialect.name], row).rowcount:
        return "duplicate"
    return "held" if held else "accepted"


class Held(NamedTuple):
    """A delivery that waits for the forge's word."""

    id: str
    repository: str
    received: float
    remark: str


def held(connection: sa.Connection, limit: int) -> list[Held]:
    """What waits for the forge's word, oldest first."""
    return [Held(*row) for row in connection.execute(_held, {"limit": limit})]


def release(connection: sa.Connection, id: str, remark: str) -> None:
    """Let a held delivery be planned; nothing for one that is not held."""
    here = (deliveries.c.id == id, deliveries.c.state == DeliveryState.HELD)
    connection.execute(sa.update(deliveries).where(*here).values(state=DeliveryState.PENDING, remark=remark))


def find(connection: sa.Connection, id: str) -> DeliveryRecord | None:
    """The delivery with its body."""
    row = connection.execute(_by_id, {"id": id}).mappings().one_or_none()
    return None if row is None else DeliveryRecord(**row)


def pending(connection: sa.Connection, limit: int) -> list[str]:
    """Ids of what still has to be planned, oldest first."""
    return list(connection.execute(_pending, {"limit": limit}).scalars())


def backlog(connection: sa.Connection, limit: int) -> list[tuple[str, str]]:
    """The same, each with its repository. Where there are more, no repository's flood hides another's."""
    rows = connection.execute(_backlog, {"limit": limit}).all()
    if len(rows) == limit:
        rows = connection.execute(_fair, {"limit": limit, "share": max(1, limit // SHARES)}).all()
    return [(row.id, row.repository) for row in rows]


def newest_pushes(connection: sa.Connection) -> list[str]:
    """The id of the last push of each repository, which says what its default branch is."""
    rank = sa.func.row_number().over(
        partition_by=deliveries.c.repository, order_by=(deliveries.c.received.desc(), deliveries.c.id)
    )
    pushes = (deliveries.c.event == "push", deliveries.c.repository != "")
    ranked = sa.select(deliveries.c.id, rank.label("rank")).where(*pushes).subquery()
    return list(connection.execute(sa.select(ranked.c.id).where(ranked.c.rank == 1)).scalars())


def payload(connection: sa.Connection, id: str) -> dict[str, Any]:
    """The body as JSON; raises LookupError for an unknown id and ValueError for another body."""
    body = connection.execute(sa.select(deliveries.c.body).where(deliveries.c.id == id)).scalar_one_or_none()
    if body is None:
        raise LookupError(f"the ledger has no delivery {id}")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(f"the body of delivery {id} is not a JSON object: {error}") from error


def attempt(connection: sa.Connection, id: str) -> int:
    """Count one more attempt at planning; returns how many that makes."""
    connection.execute(
        sa.update(deliveries).where(deliveries.c.id == id).values(attempts=deliveries.c.attempts + 1)
    )
    attempts = connection.execute(
        sa.select(deliveries.c.attempts).where(deliveries.c.id == id)
    ).scalar_one_or_none()
    if attempts is None:
        raise LookupError(f"the ledger has no delivery {id}")
    return int(attempts)


def settle(connection: sa.Connection, id: str, state: DeliveryState, reason: str = "") -> bool:
    """Record how a delivery ended; False when the same was recorded before.

    Raises LookupError for an unknown id and `IllegalTransition` when it ended otherwise.
    """
    now = connection.execute(_state_of, {"id": id}).scalar_one_or_none()
    if now is None:
        raise LookupError(f"the ledger has no delivery {id}")
    if now == state:
        return False
    if now != DeliveryState.PENDING and (now, state) != (DeliveryState.HELD, DeliveryState.REJECTED):
        raise IllegalTransition(f"delivery {id} is {now} and cannot become {state}")
    connection.execute(_update, {"this": id, "state": state, "reason": reason})
    return True
