"""Why a run is as it is: the ledger's notes on every workflow file, and each job's condition once more."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from runnerd.jobs.contexts import github_context
from runnerd.model import JobRecord, Outcome, Phase, RunRecord
from runnerd.planning.judge import Site
from runnerd.planning.reread import reread
from runnerd.reading.process import Reader
from runnerd.store.changes import WorkflowNote
from runnerd.store.ledger import Ledger
from runnerd.store.progress import nodes
from runnerd.workflow.explain import Explanation, explain
from runnerd.workflow.model import Call, Workflow, WorkflowErrors


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """A job, or one leg of its matrix, as it stands."""

    name: str
    phase: Phase
    outcome: Outcome | None
    reason: str


class JobExplained(msgspec.Struct, frozen=True, kw_only=True):
    """One job of the file: its condition, and its legs as far as they are known."""

    explanation: Explanation
    legs: tuple[Leg, ...]


class RunExplained(msgspec.Struct, frozen=True, kw_only=True):
    """A run, why each workflow file of its delivery was or was not started, and its jobs."""

    run: RunRecord
    notes: tuple[WorkflowNote, ...]
    jobs: tuple[JobExplained, ...]


async def explain_run(run: RunRecord, *, ledger: Ledger, reader: Reader, site: Site) -> RunExplained:
    """Explain a run from what the ledger has of it; no secret is looked at."""
    notes = tuple(await ledger.notes(run.delivery))
    rows = await ledger.jobs(run.id)
    if not rows:
        return RunExplained(run=run, notes=notes, jobs=())
    try:
        workflow = await reread(run, ledger=ledger, reader=reader)
    except WorkflowErrors:
        return RunExplained(run=run, notes=notes, jobs=())  # the run's reason says it
    payload = await ledger.payload(run.delivery)
    calls = await ledger.calls(run.id)
    jobs = await trio.to_thread.run_sync(_jobs, run, rows, calls, workflow, payload, site)
    return RunExplained(run=run, notes=notes, jobs=jobs)


def _jobs(
    run: RunRecord,
    rows: list[JobRecord],
    calls: list[Call],
    workflow: Workflow,
    payload: dict[str, Any],
    site: Site,
) -> tuple[JobExplained, ...]:
    legs: dict[str, list[Leg]] = {}
    for row in rows:
        leg = Leg(name=row.name, phase=row.phase, outcome=row.outcome, reason=row.reason)
        legs.setdefault(row.key, []).append(leg)
    there = {key.partition("/")[0].partition(".")[0] for key in legs}
    ours = msgspec.structs.replace(
        workflow, jobs={key: job for key, job in workflow.jobs.items() if key in there}
    )
    github = github_context(run.event, run, payload=payload, server_url=site.server_url, api_url=site.api_url)
    contexts = {"github": github, "inputs": run.event.inputs, "vars": site.variables}
    found = explain(ours, nodes(rows, calls), contexts, cancelled=run.cancel_requested)
    return tuple(JobExplained(explanation=each, legs=tuple(legs.get(each.key, ()))) for each in found)
