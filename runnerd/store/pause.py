"""Whether the operator paused the pool of machines, so that a restart does not resume it."""

from __future__ import annotations

import sqlalchemy as sa

from runnerd.model import Pause
from runnerd.store.tables import pause


def read(connection: sa.Connection) -> Pause | None:
    """The pause that holds, or None."""
    row = connection.execute(sa.select(pause.c.reason, pause.c.since)).mappings().first()
    return None if row is None else Pause(**row)


def write(connection: sa.Connection, wanted: Pause | None) -> None:
    """Let this pause hold in place of any before; None ends it."""
    connection.execute(sa.delete(pause))
    if wanted is not None:
        connection.execute(sa.insert(pause).values(id=1, reason=wanted.reason, since=wanted.since))
