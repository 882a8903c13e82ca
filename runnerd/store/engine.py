"""How the database is opened: one writing and several reading connections, durable before commit returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import QueuePool

READERS = 4
"""Connections, and threads, that read at the same time."""

BUSY = 2.0
"""Seconds to wait for somebody else's lock on the file before the ledger counts as unavailable."""


def writing(path: Path) -> sa.Engine:
    """The engine of the one writer: a transaction holds the write lock from its first moment."""
    return _engine(path, begin="BEGIN IMMEDIATE", size=1, pragmas=("synchronous=FULL",))


def reading(path: Path) -> sa.Engine:
    """The engine of the readers: a transaction sees one state of the ledger and can write nothing."""
    return _engine(path, begin="BEGIN", size=READERS, pragmas=("query_only=ON",))


class Readers:
    """Connections that read, each kept for the next read: to have one anew costs as much as a read does."""

    def __init__(self, path: Path) -> None:
        self._engine = reading(path)
        self._idle: list[sa.Connection] = []

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One state of the ledger to read, in any thread."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._engine.connect()
        try:
            with connection.begin():
                yield connection
        finally:
            self._idle.append(connection)

    def dispose(self) -> None:
        """Let go of the database; safe to call twice."""
        while self._idle:
            self._idle.pop().close()
        self._engine.dispose()


def insert_new(dialect: str, table: sa.Table) -> sa.Insert:
    """An INSERT that does nothing where the key exists; its row count says which it was.

    The one place where databases differ in their spelling.
    """
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _engine(path: Path, *, begin: str, size: int, pragmas: tuple[str, ...]) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        # Connections wander between threads, one thread at a time.
        connect_args={"timeout": BUSY, "check_same_thread": False},
    )

    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the module would do it too late
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    def do_begin(connection: Any) -> None:
        connection.execute(begin)

    sa.event.listen(engine, "connect", connect)
    # Not as a listener: with one of any kind, every statement looks for listeners of its own.
    engine.dialect.do_begin = do_begin  # type: ignore[method-assign, assignment]
    return engine
