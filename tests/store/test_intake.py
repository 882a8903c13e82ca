"""Behaviour of runnerd.store.intake."""

from runnerd.store import intake
from runnerd.store.records import Intake


def test_a_mark_is_kept_and_moved(desk):
    """The newest word about a list replaces the one before."""
    first = Intake(source="app", begun=0.0, read_to=1.0)
    intake.write(desk.connection, first)
    intake.write(desk.connection, Intake(source="a", begun=0.0, read_to=2.0, problem="no permission"))
    assert intake.marks(desk.connection)[1] == first
    moved = Intake(source="app", begun=0.0, read_to=9.0, gap_from=1.0, gap_to=5.0)
    intake.write(desk.connection, moved)
    assert intake.marks(desk.connection)[1] == moved


def test_what_is_not_stored_is_told(desk):
    """However many ids are asked about."""
    desk.deliver("d1")
    ids = [f"d{n}" for n in range(1200)]
    assert intake.unknown(desk.connection, ids) == set(ids) - {"d1"}
    assert intake.unknown(desk.connection, []) == set()


def test_repositories_are_named_once(desk):
    """Each that a delivery was about, and none for those about none."""
    for number, name in enumerate(("o/b", "o/a", "o/b", "")):
        desk.deliver(f"d{number}", repository=name)
    assert intake.repositories(desk.connection) == ["o/a", "o/b"]
