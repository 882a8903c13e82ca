"""The third schema adds schedules."""

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from runnerd.store.migrations import v0001_first, v0002_intake, v0003_schedules


def test_it_adds_the_schedules():
    """One table more, on the second schema."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        v0002_intake.upgrade()
        v0003_schedules.upgrade()
        assert "schedules" in sa.inspect(connection).get_table_names()
    engine.dispose()
    assert v0003_schedules.down_revision == v0002_intake.revision
