"""What a job's token may: the workflow's `permissions`; of who is restricted no more than reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.model import Event
from runnerd.trust.grants import restricted
from runnerd.workflow.calls import Scope
from runnerd.workflow.model import Job
from runnerd.workflow.reader.settings import PERMISSIONS

DEFAULT: Mapping[str, str] = {"contents": "read", "packages": "read"}
"""What GitHub's restricted setting gives where a workflow says nothing."""


def token_permissions(scope: Scope, job: Job, event: Event) -> dict[str, str]:
    """Return the permissions of a job's token by their names in a workflow; what is not there is none.

    A job's `permissions` take the place of its workflow's as a whole, as at GitHub. A called workflow has at
    most what the job that calls it has, and just that where it says nothing (actions/runner's
    PermissionsHelper.cs).
    """
    said = job.permissions if job.permissions is not None else scope.workflow.permissions
    if scope.outer is None or scope.job is None:
        granted = _levels(DEFAULT if said is None else said)
    else:
        granted = token_permissions(scope.outer, scope.job, event)
        if said is not None:
            granted = {
                name: "read" if "read" in (level, granted[name]) else "write"
                for name, level in _levels(said).items()
                if name in granted
            }
    if restricted(event):
        granted = {name: "read" for name in granted if "read" in PERMISSIONS.get(name, ())}
    return granted


def _levels(said: Any) -> dict[str, str]:
    if isinstance(said, str):
        level = said.removesuffix("-all")
        said = {name: level for name, levels in PERMISSIONS.items() if level in levels}
    return {name: level for name, level in said.items() if level in ("read", "write")}
