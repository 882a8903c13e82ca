"""Behaviour of runnerd.planning.intake."""

from __future__ import annotations

import json

import pytest

from runnerd.forge.events import Ignored, Malformed
from runnerd.model import Event
from runnerd.planning.intake import read

REPOSITORY = {"id": 5, "full_name": "octo/hello"}
PUSH = {"ref": "refs/heads/main", "before": "a" * 40, "after": "b" * 40, "repository": REPOSITORY}


def taken(payload, event="push"):
    headers = {
        "x-github-event": event,
        "x-github-delivery": "g-1",
        "x-github-hook-id": "9",
        "authorization": "Basic c2VjcmV0",
        "user-agent": "x" * 2000,
    }
    return read(headers, json.dumps(payload).encode(), 7.0, "hold")


def test_a_delivery_is_stored_with_its_repository_and_without_credentials():
    """Only headers that say what the delivery is are kept, and not without end."""
    delivery, meaning = taken(PUSH)
    assert isinstance(meaning, Event)
    assert (delivery.id, delivery.event, delivery.repository, delivery.hook_id) == (
        "g-1",
        "push",
        "octo/hello",
        "9",
    )
    assert (delivery.received, delivery.repeated) == (7.0, "hold")
    assert set(delivery.headers) == {"x-github-event", "x-github-delivery", "x-github-hook-id", "user-agent"}
    assert len(delivery.headers["user-agent"]) == 1000


def test_what_starts_nothing_need_not_be_asked_about():
    """A ping that comes twice is harmless."""
    delivery, meaning = taken({"zen": "", "hook_id": 9}, "ping")
    assert isinstance(meaning, Ignored)
    assert (delivery.repository, delivery.repeated) == ("", "fine")


def test_a_body_that_is_no_event_is_malformed():
    """The sentence is for the sender."""
    with pytest.raises(Malformed):
        taken({"zen": "", "hook_id": 9})
