"""Which contexts and functions an expression may name, by the key it stands under.

Facts from GitHub's published workflow schema and its table of context availability.
"""

from __future__ import annotations

from typing import NamedTuple

from runnerd.workflow.expressions.compiler import BUILTIN, CONTEXTS


class Scope(NamedTuple):
    """What expressions under a key may use; none at all where both are empty."""

    contexts: frozenset[str]
    functions: frozenset[str] = frozenset()

    @property
    def allowed(self) -> bool:
        """Whether an expression may stand here."""
        return bool(self.contexts)

    def with_(self, *contexts: str) -> Scope:
        """This scope and some more contexts."""
        return Scope(self.contexts.union(contexts), self.functions)

    def without(self, *contexts: str) -> Scope:
        """This scope less some contexts."""
        return Scope(self.contexts.difference(contexts), self.functions)

    def calling(self, *functions: str) -> Scope:
        """This scope and functions that are not available everywhere."""
        return Scope(self.contexts, self.functions.union(functions))


NOWHERE = Scope(frozenset())
"""Names, ids, `uses`, filters: no expressions."""
RUN = Scope(frozenset(("github", "inputs", "vars")))
"""`run-name`, workflow `concurrency`, defaults of `workflow_call` inputs."""
WORKFLOW_ENV = RUN.with_("secrets")
CALL_OUTPUT = RUN.with_("jobs")
"""Outputs of `workflow_call`."""
STRATEGY = RUN.with_("needs")
JOB_IF = STRATEGY.calling("always", "cancelled", "failure", "success")
JOB = STRATEGY.with_("strategy", "matrix")
"""Most keys of a job."""
JOB_SECRETS = JOB.with_("secrets")
"""`env` of a job and `secrets` of a call."""
JOB_DEFAULTS = JOB.with_("env")
CREDENTIALS = JOB.with_("secrets", "env")
RUNNER = JOB.with_("secrets", "steps", "job", "runner", "env")
"""Job outputs and the environment of containers (for which the documentation has no `steps`)."""
ENVIRONMENT_URL = RUNNER.without("secrets")
STEP = RUNNER.calling("hashfiles")
STEP_IF = STEP.without("secrets").calling("always", "cancelled", "failure", "success")
SNAPSHOT_IF = STEP_IF


def known_function(name: str) -> bool:
    """Whether GitHub has a function of that lower-cased name, here or elsewhere."""
    return name in BUILTIN or name in STEP_IF.functions


def known_context(name: str) -> bool:
    """Whether GitHub has a context of that lower-cased name, here or elsewhere."""
    return name in CONTEXTS
