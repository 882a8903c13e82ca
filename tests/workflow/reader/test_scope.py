"""Which contexts stand where, against GitHub's own table."""

from __future__ import annotations

import pytest

from runnerd.workflow.reader import scope

KEYS = {
    "jobs.<job_id>.outputs.<output_id>": scope.RUNNER,
    "jobs.<job_id>.steps.run": scope.STEP,
    "jobs.<job_id>.steps.if": scope.STEP_IF,
    "jobs.<job_id>.environment.url": scope.ENVIRONMENT_URL,
    "jobs.<job_id>.container.credentials": scope.CREDENTIALS,
    "jobs.<job_id>.defaults.run": scope.JOB_DEFAULTS,
    "on.workflow_call.outputs.<output_id>.value": scope.CALL_OUTPUT,
    "jobs.<job_id>.env": scope.JOB_SECRETS,
    "jobs.<job_id>.runs-on": scope.JOB,
    "jobs.<job_id>.strategy": scope.STRATEGY,
    "jobs.<job_id>.if": scope.JOB_IF,
    "env": scope.WORKFLOW_ENV,
    "concurrency": scope.RUN,
    "run-name": scope.RUN,
}


@pytest.mark.parametrize("key", KEYS)
def test_scopes_are_github_s(reference, key):
    """Contexts and functions of each scope are those of the table."""
    row = reference("context_availability.json")["keys"][key]
    assert KEYS[key].contexts == frozenset(row["contexts"])
    assert KEYS[key].functions == frozenset(row["functions"])


def test_names_are_known_without_their_place():
    """A context or function that exists elsewhere is told from one that does not exist."""
    assert scope.known_context("secrets")
    assert not scope.known_context("secret")
    assert scope.known_function("hashfiles")
    assert not scope.known_function("hash")
    assert not scope.NOWHERE.allowed
