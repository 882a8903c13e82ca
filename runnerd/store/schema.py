"""Bringing a ledger's tables to this version, by Alembic without any file of settings."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from runnerd.store.errors import CannotOpen
from runnerd.store.migrations import HEAD

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(engine: sa.Engine) -> None:
    """Apply every migration the ledger has not seen, all in one transaction.

    Raises `CannotOpen` when a newer daemon wrote the ledger, or when it is none.
    """
    if _revision(engine) == HEAD:
        return
    # Only a ledger that must change loads Alembic, whose memory the daemon would keep for its whole life.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(MIGRATIONS, version_locations=[MIGRATIONS])
    known = [script.revision for script in scripts.walk_revisions()]
    try:
        with engine.begin() as connection:
            now = MigrationContext.configure(connection).get_current_revision()
            if now is not None and now not in known:
                raise CannotOpen(
                    f"the ledger {engine.url.database} has schema {now}, written by a newer runnerd; this "
                    f"one knows up to {known[0]}: install the newer one, or restore a copy made before"
                )
            with EnvironmentContext(
                Config(),
                scripts,
                fn=lambda revision, _: scripts._upgrade_revs("head", revision),
            ) as environment:
                environment.configure(connection=connection, transactional_ddl=True)
                environment.run_migrations()
    except sa.exc.DatabaseError as error:
        raise CannotOpen(f"the ledger {engine.url.database} cannot be opened: {error.orig}") from error


def _revision(engine: sa.Engine) -> str | None:
    """The schema a ledger says it has; None where it says nothing yet, or cannot be read as a ledger."""
    try:
        with engine.connect() as connection:
            found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    except sa.exc.DatabaseError:
        return None
    return str(found) if found is not None else None
