"""The step that lets a body be known again and delivery lists be read on."""

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from runnerd.store.migrations import v0001_first, v0002_intake


def test_a_delivery_of_before_has_no_hash():
    """What the first version stored stays as it was; its body is not looked at again."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        connection.execute(
            sa.text(
                "INSERT INTO deliveries VALUES ('d', 'push', '{}', 1.0, 'o/r', '', 'pending', '', 0, x'00')"
            )
        )
        v0002_intake.upgrade()
        row = connection.execute(sa.text("SELECT id, sha256, remark FROM deliveries")).one()
        assert tuple(row) == ("d", "", "")
        assert connection.execute(sa.text("SELECT * FROM intake")).all() == []
    engine.dispose()
    assert v0002_intake.down_revision == v0001_first.revision
