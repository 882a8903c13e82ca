"""The journal of machines: written before one is started, so that none outlives its daemon unseen (I5)."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from runnerd.store.records import MachineRow
from runnerd.store.tables import machines


def note(connection: sa.Connection, machine: MachineRow) -> None:
    """Write what is known of a machine over what was known before."""
    values = msgspec.structs.asdict(machine)
    here = machines.c.id == machine.id
    if not connection.execute(sa.update(machines).where(here).values(**values)).rowcount:
        connection.execute(sa.insert(machines), values)


def forget(connection: sa.Connection, id: str) -> None:
    """The machine is gone, with its process and files; nothing when it is not in the journal."""
    connection.execute(sa.delete(machines).where(machines.c.id == id))


def journal(connection: sa.Connection) -> list[MachineRow]:
    """Every machine that was noted and not forgotten, oldest first."""
    rows = connection.execute(sa.select(machines).order_by(machines.c.started, machines.c.id)).mappings()
    return [MachineRow(**row) for row in rows]
