"""The events that can start a workflow: their activity types and the filters they take.

Facts from GitHub's workflow schema and its list of events.
"""

from __future__ import annotations

from typing import NamedTuple


class EventKind(NamedTuple):
    """One event: the activity types that may be named, the types that count when none is, and its filters."""

    types: frozenset[str] = frozenset()
    default: frozenset[str] | None = None
    """None: every type."""
    filters: frozenset[str] = frozenset()


def _kind(types: str, *filters: str, default: str = "") -> EventKind:
    return EventKind(
        frozenset(types.split()),
        frozenset(default.split()) or None,
        frozenset(filters).union(("types",) if types else ()),
    )


_BRANCHES = ("branches", "branches-ignore")
_PATHS = ("paths", "paths-ignore")
_PULL_REQUEST = (
    "assigned unassigned labeled unlabeled opened edited closed reopened synchronize converted_to_draft "
    "ready_for_review locked unlocked review_requested review_request_removed auto_merge_enabled "
    "auto_merge_disabled enqueued dequeued milestoned demilestoned stacked"
)
_ISSUES = (
    "opened edited deleted transferred pinned unpinned closed reopened assigned unassigned labeled unlabeled "
    "locked unlocked milestoned demilestoned typed untyped field_added field_removed"
)
_DISCUSSION = (
    "created edited deleted transferred pinned unpinned labeled unlabeled locked unlocked category_changed "
    "answered unanswered"
)
_CHANGES = "created edited deleted"
_NONE = EventKind()

EVENTS: dict[str, EventKind] = {
    "branch_protection_rule": _kind(_CHANGES),
    "check_run": _kind("completed created rerequested requested_action"),
    "check_suite": _kind("completed"),
    "create": _NONE,
    "delete": _NONE,
    "deployment": _NONE,
    "deployment_status": _NONE,
    "discussion": _kind(_DISCUSSION),
    "discussion_comment": _kind(_CHANGES),
    "fork": _NONE,
    "gollum": _NONE,
    "image_version": _kind("created ready deleted", "names", "versions"),
    "issue_comment": _kind(_CHANGES),
    "issues": _kind(_ISSUES),
    "label": _kind(_CHANGES),
    "merge_group": _kind("checks_requested destroyed", *_BRANCHES),
    "milestone": _kind("created closed opened edited deleted"),
    "page_build": _NONE,
    "project": _kind("created closed reopened edited deleted"),
    "project_card": _kind("created moved converted edited deleted"),
    "project_column": _kind("created updated moved deleted"),
    "public": _NONE,
    "pull_request": _kind(_PULL_REQUEST, *_BRANCHES, *_PATHS, default="opened synchronize reopened"),
    "pull_request_comment": _kind(_CHANGES),
    "pull_request_review": _kind("submitted edited dismissed"),
    "pull_request_review_comment": _kind(_CHANGES),
    "pull_request_target": _kind(_PULL_REQUEST, *_BRANCHES, *_PATHS, default="opened synchronize reopened"),
    "push": _kind("", *_BRANCHES, "tags", "tags-ignore", *_PATHS),
    "registry_package": _kind("published updated"),
    "release": _kind("published unpublished created edited deleted prereleased released"),
    "repository_dispatch": EventKind(filters=frozenset(("types",))),
    "schedule": _NONE,
    "status": _NONE,
    "watch": _kind("started"),
    "workflow_call": _NONE,
    "workflow_dispatch": _NONE,
    "workflow_run": _kind("requested completed in_progress", "workflows", *_BRANCHES),
}
"""By the name under `on`."""
