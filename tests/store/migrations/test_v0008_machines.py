"""The step that lets the journal tell a machine's whole life."""

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from runnerd.store import engine
from runnerd.store.migrations import v0001_first, v0008_machines


def test_machines_of_an_earlier_version_are_still_known(tmp_path):
    """What it had started when it ended is read as a machine that may exist."""
    database = engine.writing(tmp_path / "ledger.db")
    with database.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        connection.exec_driver_sql(
            "INSERT INTO machines (id, driver, image, state, pid, uid, started) "
            "VALUES ('m1', 'qemu', 'default', 'running', 7, 8, 9.0)"
        )
        v0008_machines.upgrade()
        row = connection.execute(sa.text("SELECT * FROM machines")).mappings().one()
    known = {"id": "m1", "stage": "building", "pid": 7, "made": 0.0, "why": "", "ended": None}
    assert {name: row[name] for name in known} == known
    database.dispose()
