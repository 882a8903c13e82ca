"""Schedules in the ledger: kept per repository, started exactly once per minute that is due."""

from runnerd.model import Repository
from runnerd.store import deliveries, schedules
from runnerd.store.records import Delivery

HELLO = Repository(id=5, full_name="o/hello")
NIGHTLY = ("ci.yml", "0 3 * * *", "UTC")
HOURLY = ("ci.yml", "0 * * * *", "Europe/Berlin")


def kept(desk):
    return {(row.path, row.cron, row.zone): row for row in schedules.listed(desk.connection)}


def delivery(id="s1"):
    return Delivery(id=id, event="schedule", body=b"{}", received=1.0, repository="o/hello")


def test_what_stays_keeps_its_time_and_what_is_new_starts_now(desk):
    """A push that touches nothing of a schedule does not make it start again, nor forget that it did."""
    schedules.keep(desk.connection, HELLO, {NIGHTLY}, 100)
    row = kept(desk)[NIGHTLY]
    assert (row.looked, row.fired, row.repository) == (100, None, HELLO)
    assert schedules.start(desk.connection, row, 180, 180, delivery())
    schedules.keep(desk.connection, HELLO, {NIGHTLY, HOURLY}, 200)
    assert (kept(desk)[NIGHTLY].looked, kept(desk)[NIGHTLY].fired) == (180, 180)
    assert (kept(desk)[HOURLY].looked, kept(desk)[HOURLY].fired) == (200, None)
    schedules.keep(desk.connection, HELLO, {HOURLY}, 300)
    assert set(kept(desk)) == {HOURLY}


def test_repositories_are_apart_and_a_renamed_one_is_the_same(desk):
    """One repository's schedules touch no other's; under a new name the old name's are gone."""
    other = Repository(id=6, full_name="o/other")
    schedules.keep(desk.connection, HELLO, {NIGHTLY}, 100)
    schedules.keep(desk.connection, other, {NIGHTLY}, 100)
    schedules.keep(desk.connection, Repository(id=5, full_name="o/bye"), {NIGHTLY}, 100)
    names = [row.repository.full_name for row in schedules.listed(desk.connection)]
    assert names == ["o/bye", "o/other"]


def test_a_start_happens_once(desk):
    """Who comes second, with the same minute or from an older look, stores nothing."""
    schedules.keep(desk.connection, HELLO, {NIGHTLY}, 100)
    row = kept(desk)[NIGHTLY]
    assert schedules.start(desk.connection, row, 180, 180, delivery())
    assert not schedules.start(desk.connection, row, 180, 180, delivery("s2"))
    assert not schedules.start(desk.connection, row, 190, 190, delivery())
    assert deliveries.pending(desk.connection, 10) == ["s1"]


def test_a_schedule_that_is_gone_starts_nothing(desk):
    """Between the look and the start the default branch may have moved."""
    schedules.keep(desk.connection, HELLO, {NIGHTLY}, 100)
    row = kept(desk)[NIGHTLY]
    schedules.keep(desk.connection, HELLO, (), 150)
    assert not schedules.start(desk.connection, row, 180, 180, delivery())
    assert deliveries.pending(desk.connection, 10) == []


def test_a_look_moves_forward_only(desk):
    """What was decided stays decided."""
    schedules.keep(desk.connection, HELLO, {NIGHTLY}, 100)
    schedules.look(desk.connection, 150)
    schedules.look(desk.connection, 120)
    assert kept(desk)[NIGHTLY].looked == 150


def test_the_newest_push_of_each_repository(desk):
    """It says what the default branch is; other events do not."""
    for id, event, repository, received in (
        ("a1", "push", "o/a", 1.0),
        ("a2", "push", "o/a", 3.0),
        ("a3", "issues", "o/a", 4.0),
        ("b1", "push", "o/b", 2.0),
        ("c1", "push", "", 9.0),
    ):
        desk.deliver(id, event=event, repository=repository, received=received)
    assert sorted(deliveries.newest_pushes(desk.connection)) == ["a2", "b1"]
