"""Which jobs run again when one does: all that need it, directly or not, in every scope it is in."""

from __future__ import annotations

from collections.abc import Iterator

from runnerd.workflow.calls import Scope
from runnerd.workflow.model import Workflow


def dependents(scope: Scope, id: str) -> dict[str, str]:
    """The jobs that need this one, by their key, with the name people see while they have no legs.

    A job of a called workflow is needed by who needs the job that calls as well, since its results make
    that job's. Their own calls are made anew, so what those brought in is not named.
    """
    found: dict[str, str] = {}
    inner: Scope | None = scope
    while inner is not None:
        found |= {inner.prefix + each: inner.named(each) for each in _needing(inner.workflow, id)}
        id = inner.job.id if inner.job is not None else ""
        inner = inner.outer
    return found


def _needing(workflow: Workflow, id: str) -> Iterator[str]:
    """The jobs of a file that need this one, in the order of the file."""
    reached = {id}
    while more := {key for key, job in workflow.jobs.items() if reached.intersection(job.needs)} - reached:
        reached |= more
    return (key for key in workflow.jobs if key in reached and key != id)
