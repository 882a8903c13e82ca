"""Whether a stranger's run waits for somebody's approval, and which comment gives one. Pure.

Whoever is meant is known by the number that the forge authenticated, never by a name.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from runnerd.model import Event
from runnerd.trust.grants import strangers

Setting = Literal[
    "all_external_contributors", "first_time_contributors", "first_time_contributors_new_to_github"
]
"""GitHub's setting for a repository: which outsiders' pull requests wait for approval."""
STRICTEST: Setting = "all_external_contributors"
"""What holds where the setting cannot be read."""
LOOSEST: Setting = "first_time_contributors_new_to_github"
MAY_APPROVE = frozenset({"admin", "write"})
"""Permissions, as GitHub's API names them, of who may approve."""

_INSIDERS = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
_COMMAND = re.compile(r"/runnerd approve ([0-9a-f]{40}|[0-9a-f]{64})\s*")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A comment that wants the runs of a pull request's commit to start."""

    number: int
    sha: str
    """The commit's whole id: two commits with one beginning are made in minutes, and one was looked at."""


def why_approval(event: Event, setting: Setting) -> str:
    """Return why a run of this event waits for approval; empty where it does not.

    Author and sender both count: a sender who is not the author is trusted by nobody's word here. GitHub
    does not say in an event how old an account is: `first_time_contributors_new_to_github` holds every
    first-time contributor.
    """
    if not strangers(event):
        return ""
    pull = _map(event.payload, "pull_request")
    author = _map(pull, "user").get("id")
    if not isinstance(author, int) or author != event.sender.id:
        return "a pull request from a fork, and somebody else than its author caused this"
    association = pull.get("author_association")
    if association in _INSIDERS or (setting != STRICTEST and association == "CONTRIBUTOR"):
        return ""
    return "a pull request from a fork, by somebody from outside the repository"


def wish(event: Event) -> Wish | None:
    """Return what a comment wants approved; None for every other event.

    Only a new comment of a person counts, written by who caused the event: none that was edited, that a bot
    wrote, or an App in somebody's name.
    """
    if (event.name, event.action) != ("issue_comment", "created"):
        return None
    issue, comment = _map(event.payload, "issue"), _map(event.payload, "comment")
    author, number = _map(comment, "user"), issue.get("number")
    if not isinstance(issue.get("pull_request"), dict) or not isinstance(number, int):
        return None
    if author.get("id") != event.sender.id or author.get("type") != "User":
        return None
    if comment.get("performed_via_github_app") is not None:
        return None
    if comment.get("created_at") != comment.get("updated_at"):
        return None
    body = comment.get("body")
    found = _COMMAND.fullmatch(body.lstrip()) if isinstance(body, str) else None
    return Wish(number=number, sha=found[1]) if found else None


def our_own(event: Event) -> str:
    """Return why an event is only an echo of our own reports, which start nothing; empty for others."""
    payload = event.payload
    if event.name == "issue_comment" and _text(_map(payload, "comment"), "body").startswith(
        "<!-- runnerd:v1 "
    ):
        return "it is our own comment"
    if event.name == "status" and _text(payload, "context").startswith("runnerd / "):
        return "it is our own commit status"
    if event.name == "check_run" and _text(_map(payload, "check_run"), "name").startswith("runnerd / "):
        return "it is our own check run"
    return ""


def _map(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""
