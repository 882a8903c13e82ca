"""Whom an event starts: which jobs of a workflow file become a run of ours, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from runnerd.jobs.contexts import github_context
from runnerd.model import Event, Outcome
from runnerd.store.changes import UNEXPANDED, NewJob, NewRun, WorkflowNote
from runnerd.workflow import ExpressionError, interpolate, matches
from runnerd.workflow.legs import plan_legs
from runnerd.workflow.model import Problem, Workflow
from runnerd.workflow.triggers import dispatch_inputs

PROBLEMS_SHOWN = 10
TITLE = 200
"""Characters of a run's title."""


class Site(Protocol):
    """What planning depends on beside the delivery; the daemon fills it in."""

    server_url: str
    api_url: str
    variables: Mapping[str, str]
    workflow_folders: tuple[str, ...]
    """Where a repository's workflows are: the first of these that has any."""
    shared_workflows: tuple[str, ...]
    """Repositories whose reusable workflows every owner's may call: `owner/name`, `owner/*`."""
    foreign_is_failure: bool
    """Whether a job that no image claims is ours to fail, or not ours."""

    def image_for(self, labels: tuple[str, ...]) -> str | None:
        """The image that claims these labels, or None."""
        ...


def judge(
    event: Event, workflow: Workflow, source: str, changed: tuple[str, ...] | None, site: Site
) -> tuple[NewRun | None, WorkflowNote]:
    """Whether the event starts this workflow, and with which jobs. Slow where patterns are many."""
    path = workflow.path
    match = matches(event, event.payload, workflow, changed)
    note = WorkflowNote(path=path, matched=match.matched, reason=match.reason)
    if not match.matched:
        return None, note
    if workflow.blocking:
        reason = "This version of runnerd cannot run this workflow yet\n" + listed(workflow.blocking)
        return failed(event, path, workflow.name, source, reason), note
    if event.name == "workflow_dispatch" and match.trigger is not None:
        try:
            inputs = dispatch_inputs(match.trigger.inputs, event.inputs)
        except ValueError as wrong:
            return failed(event, path, workflow.name, source, str(wrong)), note
        event = msgspec.structs.replace(event, inputs=inputs)
    contexts = {
        "github": github_context(event, workflow=workflow, server_url=site.server_url, api_url=site.api_url),
        "inputs": event.inputs,
        "vars": site.variables,
    }
    try:
        named = run_name(workflow, contexts)
    except ExpressionError as wrong:
        return failed(event, path, workflow.name, source, f"`run-name` of {path}: {wrong}"), note
    ours, foreign = _sort_out(workflow, contexts, site)
    reason = "; ".join([match.reason, *(f"job {key} is not ours: {why}" for key, why in foreign.items())])
    note = WorkflowNote(path=path, matched=True, reason=reason)
    if not ours:
        return None, note
    return NewRun(
        workflow_path=path,
        workflow_name=workflow.name,
        title=named or title(event),
        source_text=source,
        event=event,
        jobs=tuple(NewJob(key=key, leg=UNEXPANDED, name=key) for key in ours),
    ), note


def run_name(workflow: Workflow, contexts: Mapping[str, Any]) -> str:
    """What a workflow calls its run; empty where it says nothing. Raises `ExpressionError`."""
    return " ".join(interpolate(workflow.run_name, contexts).split())[:TITLE]


def _sort_out(
    workflow: Workflow, contexts: Mapping[str, Any], site: Site
) -> tuple[list[str], dict[str, str]]:
    """Which jobs are ours, and why the others are not: a foreign job, and what needs one."""
    if site.foreign_is_failure:
        return list(workflow.jobs), {}
    foreign: dict[str, str] = {}
    partly: set[str] = set()
    for key, legs in plan_legs(workflow, contexts).items():
        if legs is None:
            continue  # its labels depend on other jobs' outputs: the executor will see
        unclaimed = [leg.labels for leg in legs if site.image_for(leg.labels) is None]
        if len(unclaimed) == len(legs):
            foreign[key] = f"no image claims {', '.join(unclaimed[0]) or 'an empty runs-on'}"
        elif unclaimed:
            partly.add(key)
    grew = True
    while grew:
        grew = False
        for key, job in workflow.jobs.items():
            needed = next((need for need in job.needs if need in foreign or need in partly), None)
            if key not in foreign and needed is not None:
                foreign[key] = f"it needs {needed}, which is not ours"
                grew = True
    return [key for key in workflow.jobs if key not in foreign], foreign


def wants_paths(workflow: Workflow, event: str) -> bool:
    """Whether the changed files matter to whether this event starts the workflow."""
    return any(
        trigger.event == event and (trigger.paths is not None or trigger.paths_ignore is not None)
        for trigger in workflow.triggers
    )


def title(event: Event) -> str:
    """What people recognise the run by: the pull request's title or the commit's first line."""
    pull = event.payload.get("pull_request")
    title = pull.get("title") if isinstance(pull, dict) else None
    text = title if isinstance(title, str) else event.message
    return text.partition("\n")[0][:TITLE] or event.ref


def failed(
    event: Event,
    path: str,
    name: str,
    source: str,
    reason: str,
    outcome: Outcome = Outcome.STARTUP_FAILURE,
) -> NewRun:
    """Make a run that ends at birth: what cannot be run is a result, and never a green one."""
    return NewRun(
        workflow_path=path,
        workflow_name=name,
        title=title(event),
        source_text=source,
        event=event,
        jobs=(),
        outcome=outcome,
        reason=reason,
    )


def listed(problems: Sequence[Problem | str]) -> str:
    """The first problems, one a line, and how many more there are."""
    shown = [str(problem) for problem in problems[:PROBLEMS_SHOWN]]
    more = len(problems) - len(shown)
    return "\n".join([*shown, *([f"and {more} more"] if more else [])])
