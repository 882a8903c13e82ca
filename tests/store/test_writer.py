"""Writes become durable together, fail alone, wait out a crashed loop, and are never left unanswered."""

import sqlite3
from functools import partial

import pytest
import sqlalchemy as sa
import trio
from trio.testing import wait_all_tasks_blocked

from runnerd.store import engine, writer
from runnerd.store.errors import LedgerUnavailable
from runnerd.store.tables import metadata, pulse
from runnerd.store.writer import Writer


@pytest.fixture
def database(tmp_path):
    """A writing engine with all tables, which counts its commits."""
    one = engine.writing(tmp_path / "x.db")
    metadata.create_all(one)
    yield one
    one.dispose()


@pytest.fixture
def commits(database):
    """A list that grows with every commit."""
    seen: list[int] = []
    sa.event.listen(database, "commit", lambda connection: seen.append(1))
    return seen


def put(connection: sa.Connection, id: int) -> int:
    """Write one row."""
    connection.execute(sa.insert(pulse), {"id": id, "at": 0.0})
    return id


def put_and_fail(connection: sa.Connection, id: int) -> int:
    """Write one row, then think better of it."""
    put(connection, id)
    raise ValueError(f"not {id}")


def rows(database: sa.Engine) -> list[int]:
    """What is stored."""
    with database.connect() as connection:
        return list(connection.execute(sa.select(pulse.c.id).order_by(pulse.c.id)).scalars())


async def collect(outcomes: dict[int, object], subject: Writer, work, id: int) -> None:
    """Submit a write and keep what becomes of it."""
    try:
        outcomes[id] = await subject.submit(partial(work, id=id))
    except Exception as error:
        outcomes[id] = error


async def test_writes_that_come_together_share_a_commit(database, commits, nursery):
    """What waits when the loop looks is committed at once, in its order, and each gets its own answer."""
    subject, outcomes = Writer(database), {}
    for id in range(20):
        nursery.start_soon(collect, outcomes, subject, put, id)
    await wait_all_tasks_blocked()
    assert outcomes == {}
    before = len(commits)
    subject.close()
    await subject.serve()
    await wait_all_tasks_blocked()
    assert outcomes == {id: id for id in range(20)}
    assert len(commits) == before + 1
    assert rows(database) == list(range(20))


async def test_a_batch_is_bounded(database, commits, nursery):
    """However much waits, one transaction holds a bounded number of writes."""
    subject, outcomes = Writer(database), {}
    for id in range(writer.BATCH * 2 + 1):
        nursery.start_soon(collect, outcomes, subject, put, id)
    await wait_all_tasks_blocked()
    before = len(commits)
    subject.close()
    await subject.serve()
    assert len(commits) == before + 3


async def test_a_write_that_fails_fails_alone(database, nursery):
    """Its error is raised where it was asked, nothing of it is stored, and its neighbours are."""
    subject, outcomes = Writer(database), {}
    for id in range(5):
        nursery.start_soon(collect, outcomes, subject, put_and_fail if id == 2 else put, id)
    await wait_all_tasks_blocked()
    nursery.start_soon(collect, outcomes, subject, put_the_first_again, 9)
    await wait_all_tasks_blocked()
    subject.close()
    await subject.serve()
    await wait_all_tasks_blocked()
    assert rows(database) == [0, 1, 3, 4]
    assert str(outcomes.pop(2)) == "not 2"
    assert isinstance(outcomes.pop(9), sa.exc.IntegrityError)
    assert outcomes == {id: id for id in (0, 1, 3, 4)}


async def test_savepoints_are_made_only_where_a_write_fails(database, nursery):
    """A batch without a failure has none; one with a failure is undone and done again with one for each."""
    made: list[str] = []
    sa.event.listen(database, "savepoint", lambda connection, name: made.append(name))
    for failing, savepoints in ((None, 0), (2, 3)):
        subject, outcomes = Writer(database), {}
        for id in range(3):
            work = put_and_fail if id == failing else put
            nursery.start_soon(collect, outcomes, subject, work, id + 10 * savepoints)
        await wait_all_tasks_blocked()
        subject.close()
        await subject.serve()
        assert len(made) == savepoints
    assert rows(database) == [0, 1, 2, 30, 31]


def put_the_first_again(connection: sa.Connection, id: int) -> int:
    """Break a rule of the schema."""
    return put(connection, 0)


async def test_a_full_disk_is_said_and_survived(database, nursery):
    """When there is no room nothing is stored, each caller hears it, and later writes work again."""
    subject, outcomes = Writer(database), {}
    await nursery.start(subject.serve)
    pages = await subject.submit(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    await subject.submit(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}"))

    def much(connection: sa.Connection, id: int) -> None:
        connection.exec_driver_sql("CREATE TABLE much (x)")
        connection.exec_driver_sql("INSERT INTO much VALUES (zeroblob(100000))")

    with pytest.raises(LedgerUnavailable, match=r"cannot be written \(database or disk is full\)"):
        await subject.submit(partial(much, id=1))
    await subject.submit(lambda c: c.exec_driver_sql("PRAGMA max_page_count=100000"))
    await collect(outcomes, subject, put, 1)
    assert outcomes == {1: 1}
    assert rows(database) == [1]
    subject.close()


async def test_a_locked_file_is_said_and_survived(database, tmp_path, monkeypatch, nursery):
    """Somebody else's lock makes writes fail after a bounded wait; once it is gone they work."""
    database.dispose()
    monkeypatch.setattr(engine, "BUSY", 0.05)
    impatient = engine.writing(tmp_path / "x.db")
    subject = Writer(impatient)
    await nursery.start(subject.serve)
    stranger = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="database is locked"):
        await subject.submit(partial(put, id=1))
    stranger.execute("ROLLBACK")
    stranger.close()
    assert await subject.submit(partial(put, id=1)) == 1
    subject.close()
    impatient.dispose()


async def test_writes_wait_for_the_next_loop(database, nursery):
    """What is submitted while no loop runs is written by the one that comes."""
    subject, outcomes = Writer(database), {}
    async with trio.open_nursery() as first:
        await first.start(subject.serve)
        await subject.submit(partial(put, id=1))
        first.cancel_scope.cancel()
    nursery.start_soon(collect, outcomes, subject, put, 2)
    await wait_all_tasks_blocked()
    assert outcomes == {}
    await nursery.start(subject.serve)
    await subject.submit(partial(put, id=3))
    await wait_all_tasks_blocked()
    assert outcomes == {2: 2}
    subject.close()


async def test_a_cancelled_loop_answers_what_it_took(database, nursery):
    """Cancelling the loop in the middle of a commit neither loses the commit nor its answers."""
    subject, outcomes = Writer(database), {}
    scope = trio.CancelScope()

    def put_and_cancel(connection: sa.Connection, id: int) -> int:
        trio.from_thread.run_sync(scope.cancel)
        return put(connection, id)

    with scope:
        async with trio.open_nursery() as loop:
            loop.start_soon(subject.serve)
            nursery.start_soon(collect, outcomes, subject, put_and_cancel, 1)
    await wait_all_tasks_blocked()
    assert outcomes == {1: 1}
    assert rows(database) == [1]


async def test_a_cancelled_caller_is_written_all_the_same(database, nursery):
    """Who stops waiting does not hold up the others, and the write is not torn."""
    subject = Writer(database)
    with trio.move_on_after(0.05) as limit:
        await subject.submit(partial(put, id=1))
    assert limit.cancelled_caught
    await nursery.start(subject.serve)
    await subject.submit(partial(put, id=2))
    assert rows(database) == [1, 2]
    subject.close()


async def test_closing_drains(database):
    """After close new writes are refused, those that wait are committed, and the loop ends."""
    subject, outcomes = Writer(database), {}
    async with trio.open_nursery() as nursery:
        for id in range(3):
            nursery.start_soon(collect, outcomes, subject, put, id)
        await wait_all_tasks_blocked()
        subject.close()
        subject.close()
        with pytest.raises(LedgerUnavailable, match="is closed"):
            await subject.submit(partial(put, id=9))
        await subject.serve()
    assert outcomes == {0: 0, 1: 1, 2: 2}


async def test_abandoning_answers_everybody(database):
    """When nobody will commit any more, those who wait are told so and nothing is stored."""
    subject, outcomes = Writer(database), {}
    async with trio.open_nursery() as nursery:
        for id in range(3):
            nursery.start_soon(collect, outcomes, subject, put, id)
        await wait_all_tasks_blocked()
        subject.abandon()
        subject.abandon()
    assert all("closed before this was written" in str(error) for error in outcomes.values())
    assert len(outcomes) == 3
    assert rows(database) == []


async def test_a_full_queue_holds_callers_back(database, monkeypatch):
    """The queue is bounded: who comes too early waits outside, and is refused when the ledger closes."""
    monkeypatch.setattr(writer, "QUEUE", 2)
    subject, outcomes = Writer(database), {}
    async with trio.open_nursery() as nursery:
        for id in range(4):
            nursery.start_soon(collect, outcomes, subject, put, id)
        await wait_all_tasks_blocked()
        assert subject._take.statistics().current_buffer_used == 2
        subject.post(partial(put, id=9))
        await nursery.start(subject.serve)
        await wait_all_tasks_blocked(0.05)
        subject.close()
    assert outcomes == {id: id for id in range(4)}
    assert rows(database) == [0, 1, 2, 3, 9]


async def test_who_waits_outside_is_refused_when_the_ledger_closes(database, monkeypatch):
    """Although nothing is committed any more, nobody waits for ever."""
    monkeypatch.setattr(writer, "QUEUE", 1)
    subject, outcomes = Writer(database), {}
    async with trio.open_nursery() as nursery:
        for id in range(3):
            nursery.start_soon(collect, outcomes, subject, put, id)
        await wait_all_tasks_blocked()
        subject.close()
        await wait_all_tasks_blocked()
        assert ["is closed" in str(outcome) for outcome in outcomes.values()] == [True, True]
        await subject.serve()
    assert len(outcomes) == 3
    assert len(rows(database)) == 1


async def test_what_is_posted_keeps_its_place(database, commits, nursery):
    """It is committed before, or with, what is asked for after it, although nobody waited for it."""
    subject, outcomes = Writer(database), {}
    subject.post(partial(put, id=1))
    nursery.start_soon(collect, outcomes, subject, put_the_first_again, 9)
    nursery.start_soon(collect, outcomes, subject, put, 0)
    await wait_all_tasks_blocked()
    before = len(commits)
    subject.close()
    await subject.serve()
    await wait_all_tasks_blocked()
    assert rows(database) == [0, 1]
    assert len(commits) == before + 1


async def test_what_is_posted_and_fails_is_only_logged(database, monkeypatch):
    """Its neighbours are stored; after the end it is not done, which the poster need not know."""
    logged = []
    monkeypatch.setattr(writer._log, "error", lambda event, **more: logged.append(more), raising=False)
    subject = Writer(database)
    subject.post(partial(put_and_fail, id=1))
    subject.post(partial(put, id=2))
    subject.close()
    subject.post(partial(put, id=3))
    await subject.serve()
    assert rows(database) == [2]
    assert logged == [{"problem": "not 1"}]


async def test_nobody_waits_for_the_commit_of_what_was_posted(database, commits, nursery, monkeypatch):
    """It is committed with the next write that somebody waits for, although that comes later."""
    monkeypatch.setattr(writer, "LINGER", 600.0)
    subject, outcomes = Writer(database), {}
    await nursery.start(subject.serve)
    before = len(commits)
    for id in (1, 2):
        subject.post(partial(put, id=id))
        await wait_all_tasks_blocked()
    await collect(outcomes, subject, put, 3)
    assert (outcomes, rows(database), len(commits)) == ({3: 3}, [1, 2, 3], before + 1)


async def test_what_was_posted_last_is_committed_all_the_same(database, monkeypatch):
    """By itself after a moment, and at once when the ledger closes."""
    subject = Writer(database)
    subject.post(partial(put, id=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.serve)
        committed = trio.Event()
        sa.event.listen(database, "commit", lambda connection: trio.from_thread.run_sync(committed.set))
        with trio.fail_after(30):
            await committed.wait()
        monkeypatch.setattr(writer, "LINGER", 600.0)
        subject.post(partial(put, id=2))
        await wait_all_tasks_blocked()
        subject.close()
    assert rows(database) == [1, 2]


async def test_what_was_posted_is_dropped_when_the_ledger_is_abandoned(database, monkeypatch, nursery):
    """Nobody commits any more, not even what the loop has taken already."""
    monkeypatch.setattr(writer, "LINGER", 600.0)
    subject = Writer(database)
    await nursery.start(subject.serve)
    subject.post(partial(put, id=1))
    await wait_all_tasks_blocked()
    subject.abandon()
    await wait_all_tasks_blocked()
    assert rows(database) == []
