"""Behaviour of runnerd.planning.endings."""

from __future__ import annotations

import pytest

from runnerd.model import Actor, Event, Repository, RunRecord
from runnerd.planning import endings
from runnerd.planning.endings import Closings, ended, ends_something


def event(name="pull_request", action="closed", *, number=7, repository=5, delivery="d", at=None, sha=""):
    return Event(
        delivery=delivery,
        name=name,
        action=action,
        repository=Repository(id=repository, full_name="o/r"),
        sender=Actor(id=1, login="ada"),
        number=number,
        sha=sha,
        payload={"pull_request": {"updated_at": at}},
    )


def run(id, **fields):
    theirs = event(**{"delivery": f"d{id}", "action": "opened", **fields})
    return RunRecord(
        id=id, delivery=theirs.delivery, repository="o/r", workflow_path="ci.yml", workflow_name="CI",
        title="", source="", event=theirs, number=1,
    )  # fmt: skip


def test_a_closing_ends_the_runs_of_that_pull_request():
    """Its own runs about the closing, other pull requests' and other repositories' go on."""
    runs = [
        run(1),
        run(2, name="pull_request_review", action="submitted"),
        run(3, number=8),
        run(4, repository=6),
        run(5, action="closed"),
        run(6, name="push", number=None),
    ]
    assert ended(event(), runs) == [1, 2]
    assert ends_something(event())
    assert not ends_something(event(action="reopened"))


def test_a_destroyed_group_ends_its_runs():
    """Those of the same commit, and nothing else."""
    group = event("merge_group", "destroyed", number=None, sha="a" * 40)
    runs = [
        run(1, name="merge_group", number=None, sha="a" * 40),
        run(2, name="merge_group", number=None, sha="b" * 40),
        run(3, name="push", number=None, sha="a" * 40),
    ]
    assert ended(group, runs) == [1]
    assert ends_something(group)


@pytest.mark.parametrize(
    ("at", "over"),
    [
        ("2026-01-01T00:00:01Z", True),
        ("2026-01-01T02:00:01+02:00", True),
        ("2026-01-01T00:00:02Z", False),
        ("2026-01-01T00:00:03Z", False),
        ("2026-01-01T00:00:01", False),
        ("yesterday", False),
        (None, False),
    ],
)
def test_what_was_before_the_closing_and_came_after_it_is_over(at, over):
    """By the forge's own times; a reopening is later, and what has no time is believed."""
    closings = Closings()
    closings.note(event(at="2026-01-01T00:00:02Z"))
    closings.note(event(at="2026-01-01T00:00:00Z"))
    assert (closings.over(event(action="opened", at=at)) is not None) is over
    assert closings.over(event(action="opened", at=at, number=8)) is None


def test_few_closings_are_remembered():
    """Of more the oldest is forgotten."""
    closings = Closings()
    for number in range(1, endings.KEPT + 2):
        closings.note(event(at="2026-01-01T00:00:02Z", number=number))
    before = "2026-01-01T00:00:01Z"
    assert closings.over(event(action="opened", at=before, number=1)) is None
    assert closings.over(event(action="opened", at=before, number=2)) is not None
