"""How far the forge's delivery lists were read, and from when to when they could not say what was missed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import sqlalchemy as sa

from runnerd.store import engine
from runnerd.store.engine import insert_new
from runnerd.store.records import Intake
from runnerd.store.tables import deliveries, intake
from runnerd.store.writer import unavailable

_columns = [intake.c[name] for name in Intake.__struct_fields__]
_new = {dialect: insert_new(dialect, intake) for dialect in ("sqlite", "postgresql")}


def marks(connection: sa.Connection) -> list[Intake]:
    """Every list that was ever read, by name."""
    query = sa.select(*_columns).order_by(intake.c.source)
    return [Intake(**row) for row in connection.execute(query).mappings()]


def look(path: Path) -> list[Intake]:
    """The same, from a ledger's file that a daemon may be using; nothing where there is no such file.

    Blocks. Raises `LedgerUnavailable` for a file that cannot be read.
    """
    if not path.exists():
        return []
    reading = engine.reading(path)
    try:
        with reading.begin() as connection:
            return marks(connection) if sa.inspect(connection).has_table("intake") else []
    except sa.exc.SQLAlchemyError as error:
        raise unavailable(error, "read") from error
    finally:
        reading.dispose()


def write(connection: sa.Connection, mark: Intake) -> None:
    """Remember how far a list was read."""
    row = msgspec.structs.asdict(mark)
    if not connection.execute(_new[connection.dialect.name], row).rowcount:
        connection.execute(sa.update(intake).where(intake.c.source == mark.source).values(row))


def unknown(connection: sa.Connection, ids: list[str]) -> set[str]:
    """Those of some delivery ids that are not stored."""
    found: set[str] = set()
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        found.update(
            connection.execute(sa.select(deliveries.c.id).where(deliveries.c.id.in_(part))).scalars()
        )
    return set(ids) - found


def repositories(connection: sa.Connection) -> list[str]:
    """Every repository a delivery was about, by name."""
    query = sa.select(deliveries.c.repository).distinct().order_by(deliveries.c.repository)
    return [name for name in connection.execute(query).scalars() if name]
