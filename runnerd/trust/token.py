"""What the token of a job may: the workflow's `permissions`, and for strangers no more than reading."""

from __future__ import annotations

from collections.abc import Mapping

from runnerd.model import Event
from runnerd.trust.grants import strangers
from runnerd.workflow.model import Job, Workflow
from runnerd.workflow.reader.settings import PERMISSIONS

DEFAULT: Mapping[str, str] = {"contents": "read", "packages": "read"}
"""What GitHub's restricted setting gives where a workflow says nothing."""


def token_permissions(workflow: Workflow, job: Job, event: Event) -> dict[str, str]:
    """Return the permissions of a job's token by their names in a workflow; what is not there is none.

    A job's `permissions` take the place of the workflow's as a whole, as at GitHub.
    """
    said = job.permissions if job.permissions is not None else workflow.permissions
    if said is None:
        said = DEFAULT
    if isinstance(said, str):
        level = said.removesuffix("-all")
        said = {name: level for name, levels in PERMISSIONS.items() if level in levels}
    granted = {name: level for name, level in said.items() if level in ("read", "write")}
    if strangers(event):
        granted = {name: "read" for name in granted if "read" in PERMISSIONS.get(name, ())}
    return granted
