"""The first schema can be made from nothing."""

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from runnerd.store.migrations import v0001_first


def test_it_makes_the_first_tables():
    """From an empty database the step makes every table of the first version."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        tables = set(sa.inspect(connection).get_table_names())
    engine.dispose()
    assert {"deliveries", "notes", "sources", "runs", "jobs", "outbox", "machines", "pulse"} <= tables
    assert v0001_first.down_revision is None
