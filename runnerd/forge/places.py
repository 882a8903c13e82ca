"""Where each event happens: what GITHUB_SHA and GITHUB_REF are, and which commit the workflows come from.

One table, after GitHub's "Events that trigger workflows" (docs.github.com, actions reference, 2026).
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Spot(enum.Enum):
    """A commit with the ref it is reached by."""

    DEFAULT = "the tip of the default branch"
    PUSHED = "the commit that was pushed, on the ref that was pushed"
    CREATED = "the tip of the branch or tag that was created"
    MERGE = "the merge commit of the pull request, on refs/pull/N/merge"
    GROUP = "the merge group's head"
    TAG = "the release's tag"
    DISPATCHED = "the tip of the ref that was asked for"
    DEPLOYED = "the commit to deploy, on its branch or tag or on none"
    PACKAGED = "the commit the package was made from"


class Place(NamedTuple):
    """One event's place: of what it runs on, and of the workflow files that are asked."""

    runs_on: Spot
    files_from: Spot


def _both(spot: Spot) -> Place:
    return Place(spot, spot)


PLACES: dict[str, Place] = {
    **dict.fromkeys(
        (
            "branch_protection_rule", "check_run", "check_suite", "delete", "discussion",
            "discussion_comment", "fork", "gollum", "image_version", "issue_comment", "issues", "label",
            "milestone", "page_build", "public", "pull_request_target", "repository_dispatch", "schedule",
            "status", "watch", "workflow_run",
        ),
        _both(Spot.DEFAULT),
    ),
    "create": _both(Spot.CREATED),
    "deployment": _both(Spot.DEPLOYED),
    "deployment_status": _both(Spot.DEPLOYED),
    "merge_group": _both(Spot.GROUP),
    "pull_request": _both(Spot.MERGE),
    "pull_request_review": _both(Spot.MERGE),
    "pull_request_review_comment": _both(Spot.MERGE),
    "push": _both(Spot.PUSHED),
    "registry_package": Place(Spot.PACKAGED, Spot.DEFAULT),
    "release": _both(Spot.TAG),
    "workflow_dispatch": _both(Spot.DISPATCHED),
}  # fmt: skip
"""By the event's name. `workflow_call` is no delivery: it runs where its caller does."""
