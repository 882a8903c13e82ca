"""Connections are durable, keep to one state while reading, and cannot write when they only read."""

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from runnerd.store import engine
from runnerd.store.tables import metadata, pulse, sources


@pytest.fixture
def engines(tmp_path):
    """A writing and a reading engine on one file with all tables."""
    pair = engine.writing(tmp_path / "x.db"), engine.reading(tmp_path / "x.db")
    metadata.create_all(pair[0])
    yield pair
    for one in pair:
        one.dispose()


def test_commits_are_durable(engines):
    """The writer uses a write-ahead log that is synced before a commit returns, and checks references."""
    with engines[0].connect() as connection:
        settings = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 2, 1]


def test_a_reader_cannot_write(engines):
    """A reading connection refuses to change anything."""
    with engines[1].connect() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        connection.execute(sa.insert(pulse), {"id": 1, "at": 1.0})


def test_a_reader_sees_one_state(engines):
    """What is committed while a reader's transaction is open is seen only by the next one."""
    count = sa.select(sa.func.count()).select_from(pulse)
    with engines[1].begin() as reader:
        assert reader.execute(count).scalar_one() == 0
        with engines[0].begin() as writer:
            writer.execute(sa.insert(pulse), {"id": 1, "at": 1.0})
        assert reader.execute(count).scalar_one() == 0
    with engines[1].begin() as reader:
        assert reader.execute(count).scalar_one() == 1


def test_readers_keep_their_connections(engines, tmp_path):
    """One connection serves reads that follow one another, each seeing a state of its own, failed or not."""
    count = sa.select(sa.func.count()).select_from(pulse)
    readers = engine.Readers(tmp_path / "x.db")
    try:
        with readers.begin() as first:
            assert first.execute(count).scalar_one() == 0
        with pytest.raises(sa.exc.OperationalError, match="nowhere"), readers.begin() as failing:
            failing.exec_driver_sql("SELECT * FROM nowhere")
        with engines[0].begin() as writer:
            writer.execute(sa.insert(pulse), {"id": 1, "at": 1.0})
        with readers.begin() as last, readers.begin() as beside:
            assert [each.execute(count).scalar_one() for each in (last, beside)] == [1, 1]
        assert first is failing is last
        assert beside is not last
    finally:
        readers.dispose()
    readers.dispose()


def test_a_failed_savepoint_undoes_only_itself(engines):
    """What was written before a savepoint outlives its rollback."""
    with engines[0].begin() as connection:
        connection.execute(sa.insert(pulse), {"id": 1, "at": 1.0})
        savepoint = connection.begin_nested()
        connection.execute(sa.insert(pulse), {"id": 2, "at": 2.0})
        savepoint.rollback()
    with engines[1].begin() as connection:
        assert connection.execute(sa.select(pulse.c.id)).scalars().all() == [1]


def test_inserting_what_is_new(engines):
    """The row count says whether the row was new; an existing row stays as it is."""
    statement = engine.insert_new("sqlite", sources)
    with engines[0].begin() as connection:
        assert connection.execute(statement, {"sha256": "a", "text": "1"}).rowcount == 1
        assert connection.execute(statement, {"sha256": "a", "text": "2"}).rowcount == 0
        assert connection.execute(sa.select(sources.c.text)).scalar_one() == "1"


def test_the_spelling_of_postgresql():
    """The same statement exists for the database that several hosts will share."""
    statement = engine.insert_new("postgresql", sources).compile(dialect=postgresql.dialect())
    assert str(statement).endswith("ON CONFLICT DO NOTHING")
