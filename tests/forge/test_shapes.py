"""Behaviour of runnerd.forge.shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from runnerd.forge import shapes
from runnerd.forge.events import Event, Malformed, decode
from runnerd.forge.places import PLACES

EXAMPLES = Path(__file__).parents[3] / "shared" / "data" / "webhooks" / "octokit"


def test_every_event_shows_itself_by_keys():
    """Each event that is read has an entry that tells its body from others'."""
    assert shapes.KEYS.keys() == PLACES.keys() | {"ping"}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference payloads are not here")
def test_no_example_passes_under_another_events_name():
    """The name is outside the signature: each official body is refused under every name but its own."""
    confused = set()
    for path in sorted(EXAMPLES.glob("[!_]*/*.json")):
        body = path.read_bytes()
        for name in PLACES:
            if name != path.parent.name:
                try:
                    decoded = decode(name, "d", body)
                except Malformed:
                    continue
                assert isinstance(decoded, Event)
                confused.add((path.parent.name, name))
    # The daemon makes this one of a pull request; from outside the name is refused (`delivery_identity`).
    assert confused == {("pull_request", "pull_request_target")}


def test_a_missing_and_a_foreign_key_are_named():
    """The sentence says by which key the body is not that of its event."""
    with pytest.raises(Malformed, match="has no comment"):
        shapes.check_keys("issue_comment", {"action": "created", "issue": {}})
    with pytest.raises(Malformed, match="it has comment"):
        shapes.check_keys("issues", {"action": "created", "issue": {}, "comment": {}})


@pytest.mark.parametrize("text", ["v1", "a/b", "é", "-u"])
def test_a_short_name_git_allows_passes(text):
    """Branch and tag names pass as git has them."""
    assert shapes.branch(text, "x") == text


def test_a_full_commit_id_has_forty_or_sixty_four_digits():
    """Nothing shorter, longer or in capitals is a commit id."""
    assert shapes.is_sha("a" * 40)
    assert shapes.is_sha("a" * 64)
    assert not any(map(shapes.is_sha, ("a" * 39, "a" * 41, "A" * 40, "main", "")))
