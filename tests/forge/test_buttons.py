"""Behaviour of runnerd.forge.buttons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runnerd.forge import events
from runnerd.forge.buttons import Press, pressed
from runnerd.forge.checks import Subject
from runnerd.model import Actor, Event, Repository

CAPTURED = Path(__file__).parents[3] / "shared" / "data" / "webhooks" / "octokit"
OURS = "5/9/abcdefabcdef"


def event(name, action, **payload):
    return Event(
        delivery="d", name=name, action=action, repository=Repository(id=1, full_name="o/r"),
        sender=Actor(id=1, login="o"), payload=payload,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("happened", "press"),
    [
        (event("check_run", "rerequested", check_run={"external_id": OURS}), "rerun"),
        (event("check_run", "requested_action", check_run={"external_id": OURS},
               requested_action={"identifier": "rerun"}), "rerun"),
        (event("check_run", "requested_action", check_run={"external_id": OURS},
               requested_action={"identifier": "cancel"}), "cancel"),
    ],
)  # fmt: skip
def test_a_button_of_ours_is_a_wish_about_its_run(happened, press):
    """GitHub's own re-run button, and the two that we put there."""
    assert pressed(happened) == Press(wish=press, subject=Subject(5, 9, "abcdefabcdef"))


@pytest.mark.parametrize(
    "happened",
    [
        event("check_run", "created", check_run={"external_id": OURS}),
        event("check_run", "rerequested", check_run={"external_id": "somebody else's"}),
        event("check_run", "rerequested", check_run={"external_id": None}),
        event("check_run", "rerequested"),
        event("check_run", "requested_action", check_run={"external_id": OURS},
              requested_action={"identifier": "fix"}),
        event("check_run", "requested_action", check_run={"external_id": OURS}, requested_action=7),
        event("check_suite", "completed", check_suite={"head_sha": "c" * 40}),
        event("check_suite", "rerequested", check_suite={}),
        event("push", None),
    ],
)  # fmt: skip
def test_everything_else_is_no_press(happened):
    """Another App's check run, an unknown button, a payload of another shape."""
    assert pressed(happened) is None


def test_a_whole_suite_is_a_wish_about_its_commit():
    """ "Re-run all checks" names the commit alone."""
    happened = event("check_suite", "rerequested", check_suite={"head_sha": "c" * 40})
    assert pressed(happened) == Press(wish="rerun", sha="c" * 40)


@pytest.mark.skipif(not CAPTURED.exists(), reason="the captured webhooks are not beside this checkout")
@pytest.mark.parametrize(
    ("file", "wish"),
    [
        ("check_run/rerequested.payload.json", "rerun"),
        ("check_run/requested_action.payload.json", "rerun"),
        ("check_suite/rerequested.payload.json", "rerun"),
    ],
)
def test_captured_payloads_are_read(file, wish):
    """GitHub's own payloads, with our words put in where an App chooses them."""
    payload = json.loads((CAPTURED / file).read_bytes())
    if "check_run" in payload:
        payload["check_run"]["external_id"] = OURS
    if "requested_action" in payload:
        payload["requested_action"]["identifier"] = "rerun"
    happened = events.decode(file.partition("/")[0], "d", json.dumps(payload).encode())
    assert isinstance(happened, Event)
    press = pressed(happened)
    assert press is not None
    assert press.wish == wish
