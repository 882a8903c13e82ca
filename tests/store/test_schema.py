"""Migrations bring any older ledger to this version's tables, and leave newer or foreign files alone."""

import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from runnerd.store import engine, schema
from runnerd.store.errors import CannotOpen
from runnerd.store.migrations import HEAD
from runnerd.store.tables import metadata


@pytest.fixture
def database(tmp_path):
    """A writing engine on a file that does not exist yet."""
    one = engine.writing(tmp_path / "ledger.db")
    yield one
    one.dispose()


def test_migrations_and_tables_say_the_same(database):
    """A migrated ledger has exactly the tables, columns, keys and indexes that the code uses."""
    schema.migrate(database)
    with database.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []


def test_the_newest_step_is_the_schema_of_this_version():
    """What is compared at every start is the head of the steps."""
    scripts = ScriptDirectory(schema.MIGRATIONS, version_locations=[schema.MIGRATIONS])
    assert scripts.get_current_head() == HEAD


def test_a_current_ledger_is_opened_without_alembic(database, monkeypatch):
    """A ledger of this version needs no migrating, so nothing for it is loaded."""
    schema.migrate(database)
    for name in [name for name in sys.modules if name.partition(".")[0] == "alembic"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it now fails
    schema.migrate(database)


def test_migrating_twice_changes_nothing(database):
    """A ledger of this version is left as it is."""
    schema.migrate(database)
    with database.begin() as connection:
        connection.execute(sa.text("INSERT INTO pulse VALUES (1, 5.0)"))
    schema.migrate(database)
    with database.connect() as connection:
        assert connection.execute(sa.text("SELECT at FROM pulse")).scalar_one() == 5.0


def test_a_newer_ledger_is_refused(database):
    """A ledger that a newer daemon wrote is not touched; the sentence says which versions and what to do."""
    schema.migrate(database)
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CannotOpen, match=r"has schema 9999, written by a newer runnerd; .* up to \d+"):
        schema.migrate(database)


def test_something_else_is_refused(tmp_path):
    """A file that is no database is named, not overwritten."""
    (tmp_path / "ledger.db").write_text("these are my notes, not a database\n" * 100)
    database = engine.writing(tmp_path / "ledger.db")
    with pytest.raises(CannotOpen, match=r"ledger\.db cannot be opened: file is not a database"):
        schema.migrate(database)
    database.dispose()
    assert (tmp_path / "ledger.db").read_text().startswith("these are my notes")


def test_a_migration_that_fails_leaves_nothing(database, tmp_path, monkeypatch):
    """All steps are one transaction: a ledger is of one version or of the other."""
    good = schema.MIGRATIONS
    broken = tmp_path / "broken"
    broken.mkdir()
    first = (good / "v0001_first.py").read_text()
    (broken / "v0001_first.py").write_text(first + "    raise OSError('the power went')\n")
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(OSError, match="the power went"):
        schema.migrate(database)
    with database.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    monkeypatch.setattr(schema, "MIGRATIONS", good)
    schema.migrate(database)
