"""Whether a job was handed what must not outlive it in a machine that is kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from runnerd.workflow.calls import Scope
from runnerd.workflow.model import Job
from runnerd.workflow.naming import named_secrets, names_token

TOKEN = "GITHUB_TOKEN"
SWITCHES = frozenset({"ACTIONS_STEP_DEBUG", "ACTIONS_RUNNER_DEBUG"})
"""Secrets that jobs have without naming them: they are wishes about the log."""


def handed(scope: Scope, job: Job, secrets: Mapping[str, str], context: Mapping[str, str]) -> bool:
    """Whether one of these secrets, by name, is within the job's reach.

    Those it cannot name are not among them, but for its token, which every job has: it counts where the job
    can name it. `context` is what `secrets` are in the job: a call makes them of what it likes, outputs too.
    """
    named = named_secrets(scope.workflow, job)
    passed = ((name.upper(), value) for name, value in context.items())
    within = [*secrets.items(), *((name, value) for name, value in passed if named is None or name in named)]
    if any(value for name, value in within if name != TOKEN and name not in SWITCHES):
        return True
    return bool(secrets.get(TOKEN) or context.get(TOKEN)) and names_token(scope, job)
