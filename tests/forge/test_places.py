"""Behaviour of runnerd.forge.places."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runnerd.forge.places import PLACES, Spot
from runnerd.workflow.events import EVENTS

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "reference" / "event_refs.json"

WORDS = {
    "last commit on default branch": Spot.DEFAULT,
    "last commit on DEFAULT branch": Spot.DEFAULT,
    "tip commit pushed": Spot.PUSHED,
    "last commit on created branch/tag": Spot.CREATED,
    "commit to be deployed": Spot.DEPLOYED,
    "merge group head SHA": Spot.GROUP,
    "merge commit of refs/pull/N/merge": Spot.MERGE,
    "commit of the published package": Spot.PACKAGED,
    "last commit in tagged release": Spot.TAG,
    "last commit on GITHUB_REF": Spot.DISPATCHED,
    "default": Spot.DEFAULT,
    "default branch": Spot.DEFAULT,
    "payload.after": Spot.PUSHED,
    "created ref": Spot.CREATED,
    "deployment sha": Spot.DEPLOYED,
    "merge group head": Spot.GROUP,
    "merge commit": Spot.MERGE,
    "tag commit": Spot.TAG,
    "dispatched ref": Spot.DISPATCHED,
}
"""The reference's words -> the place."""


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference data is not here")
def test_every_event_happens_where_github_says():
    """The table agrees with GitHub's own, event by event, on the commit and on the workflow files."""
    reference = json.loads(REFERENCE.read_bytes())["events"]
    reference.pop("workflow_call")  # it is no event of its own
    assert reference.keys() == PLACES.keys()
    for name, entry in reference.items():
        said = [entry[key].partition(" (")[0] for key in ("github_sha", "workflow_file_from")]
        assert [WORDS[words] for words in said] == list(PLACES[name]), name


def test_every_place_is_of_an_event_a_workflow_may_name():
    """What is decoded to an event is something that `on` can name."""
    assert PLACES.keys() <= EVENTS.keys()
