"""The tables are those of any SQL database, and hold what must be unique."""

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from runnerd.model import JobRecord, RunRecord
from runnerd.store.records import DeliveryRecord, MachineRow, OutboxRow
from runnerd.store.tables import deliveries, jobs, machines, metadata, outbox, runs


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_every_table_can_be_made(dialect):
    """Each table and index has a spelling in both databases."""
    for table in metadata.sorted_tables:
        assert f"CREATE TABLE {table.name}" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert str(index.name) in str(CreateIndex(index).compile(dialect=dialect))


@pytest.mark.parametrize(
    ("record", "table"),
    [
        (RunRecord, runs),
        (JobRecord, jobs),
        (DeliveryRecord, deliveries),
        (OutboxRow, outbox),
        (MachineRow, machines),
    ],
)
def test_every_field_of_a_record_is_a_column(record, table):
    """What is read back whole is stored whole."""
    assert set(record.__struct_fields__) <= set(table.c.keys())


def test_uniqueness_is_in_the_schema():
    """One delivery per id, one run per delivery, workflow and attempt, one row per leg (I2)."""
    unique = {
        (table.name, *(column.name for column in constraint.columns))
        for table in metadata.sorted_tables
        for constraint in table.constraints
        if isinstance(constraint, (sa.UniqueConstraint, sa.PrimaryKeyConstraint))
    }
    assert {
        ("deliveries", "id"),
        ("runs", "delivery", "workflow_path", "attempt"),
        ("runs", "repository_id", "workflow_path", "number", "attempt"),
        ("jobs", "run", "key", "leg"),
        ("sources", "sha256"),
        ("machines", "id"),
    } <= unique
