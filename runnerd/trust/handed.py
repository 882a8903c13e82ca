"""Whether a job was handed what must not outlive it in a machine that is kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from runnerd.workflow.calls import Scope
from runnerd.workflow.model import Job
from runnerd.workflow.naming import names_token

TOKEN = "GITHUB_TOKEN"
SWITCHES = frozenset({"ACTIONS_STEP_DEBUG", "ACTIONS_RUNNER_DEBUG"})
"""Secrets that jobs have without naming them: they are wishes about the log."""


def handed(scope: Scope, job: Job, secrets: Mapping[str, str]) -> bool:
    """Whether one of these secrets, by name, is within the job's reach.

    Those it cannot name are not among them, but for its token, which every job has: it counts where the job
    can name it.
    """
    if any(value for name, value in secrets.items() if name != TOKEN and name not in SWITCHES):
        return True
    return bool(secrets.get(TOKEN)) and names_token(scope, job)
