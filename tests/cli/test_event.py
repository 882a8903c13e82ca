"""The event of a command: from a file or made from the checkout, decoded as a delivery would be."""

import json
from pathlib import Path

import pytest
import typer

from runnerd.cli.event import happened

PUSH = {
    "ref": "refs/heads/topic",
    "before": "0" * 40,
    "after": "1" * 40,
    "repository": {"id": 1, "full_name": "o/r", "default_branch": "main", "private": False},
    "sender": {"id": 2, "login": "o"},
    "head_commit": {"id": "1" * 40, "message": "m"},
}


def test_a_payload_file_is_the_event(tmp_path: Path) -> None:
    """The bytes of the file are the body, and what files changed is not known."""
    file = tmp_path / "push.json"
    file.write_text(json.dumps(PUSH))
    what = happened(tmp_path, "push", file, inputs={})
    assert (what.event.ref, what.event.sha, what.changed) == ("refs/heads/topic", "1" * 40, None)
    assert json.loads(what.body) == PUSH


def test_a_folder_that_is_no_repository_has_an_event_too(tmp_path: Path) -> None:
    """Where git knows nothing, a push of main is made up, so that plans can be drawn."""
    what = happened(tmp_path, "push", None, inputs={})
    assert what.event.ref == "refs/heads/main"
    assert what.event.repository.full_name.startswith("local/")


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [("push", "{}", 2), ("deployment", None, 2), ("workflow_dispatch", None, 2), ("ping", None, 4)],
)
def test_what_is_no_event_ends_the_command(tmp_path: Path, name: str, text: str | None, code: int) -> None:
    """A payload of another shape, an event that cannot be made up, and one that starts nothing."""
    file = None
    if text is not None:
        file = tmp_path / "payload.json"
        file.write_text(text)
    with pytest.raises(typer.Exit) as ended:
        happened(tmp_path, name, file, inputs={})
    assert ended.value.exit_code == code
