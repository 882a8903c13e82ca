"""What we need at a forge, what each missing permission costs, and a workflow's wishes in the API's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

LEVELS = ("none", "read", "write", "admin")


class Need(msgspec.Struct, frozen=True):
    """One permission, by the API's name and as GitHub's pages call it, and what its lack costs."""

    name: str
    level: str
    title: str
    cost: str

    def met(self, granted: Mapping[str, str]) -> bool:
        """Whether what was granted is enough."""
        return _rank(granted.get(self.name, "none")) >= _rank(self.level)


CONTENTS = Need(
    "contents", "read", "Contents: read", "private repositories cannot be read, so none of their jobs runs"
)
CHECKS = Need(
    "checks", "write", "Checks: write", "results are commit statuses, without annotations and re-run buttons"
)
STATUSES = Need(
    "statuses", "write", "Commit statuses: write", "no result is shown on commits without check runs"
)
COMMENTS = Need("pull_requests", "write", "Pull requests: write", "pull requests get no comment")
HOOKS = Need(
    "repository_hooks",
    "write",
    "Webhooks: write",
    "`runnerd connect` cannot make the webhook, and missed deliveries are not found",
)
ADMINISTRATION = Need(
    "administration",
    "read",
    "Administration: read",
    "GitHub's approval setting for forks is unknown, and the strictest holds",
)

OF_APP = (CONTENTS, CHECKS, STATUSES, COMMENTS, ADMINISTRATION)
OF_TOKEN = (CONTENTS, STATUSES, COMMENTS, HOOKS)

EVENTS = (
    "check_run",
    "check_suite",
    "create",
    "delete",
    "issue_comment",
    "issues",
    "merge_group",
    "pull_request",
    "pull_request_review",
    "push",
    "release",
    "repository_dispatch",
    "workflow_dispatch",
)
"""What an App subscribes to."""
ONLY_APPS = frozenset({"merge_group", "repository_dispatch", "workflow_dispatch"})
"""Events that GitHub sends to Apps alone."""


def missing(needs: Iterable[Need], granted: Mapping[str, str]) -> list[Need]:
    """Return what was not granted, in the given order."""
    return [need for need in needs if not need.met(granted)]


def cost_of(title: str) -> str:
    """Return what the lack of a permission costs, by its title; empty for one we do not need."""
    known = (CONTENTS, CHECKS, STATUSES, COMMENTS, HOOKS, ADMINISTRATION)
    return next((need.cost for need in known if need.title == title), "")


def of_workflow(wanted: Mapping[str, str], ours: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return a workflow's `permissions` in the API's words, cut down to what is ours; and what was cut.

    `metadata: read` is always among them: GitHub reads an empty set as everything.
    """
    granted: dict[str, str] = {"metadata": "read"}
    cut: list[str] = []
    for key, level in sorted(wanted.items()):
        name = key.replace("-", "_")
        if name in NOT_OF_TOKENS or level not in ("read", "write"):
            continue
        had = ours.get(name, "none")
        allowed = level if _rank(had) >= _rank(level) else had
        if allowed != level:
            cut.append(f"{name}: {level}")
        if allowed in ("read", "write"):
            granted[name] = allowed
    return granted, cut


NOT_OF_TOKENS = frozenset({"id_token", "models", "metadata"})
"""Keys of a workflow's `permissions` that no installation token carries."""


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else 0
