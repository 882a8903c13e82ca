"""`runnerd plan`: what an event would run in a checkout, and the filter that says no to the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from runnerd.cli import options
from runnerd.cli.output import Code, clean, fail, show_json
from runnerd.model import Event, Outcome, Phase

if TYPE_CHECKING:
    from runnerd.config import Config
    from runnerd.workflow import Job, Workflow
    from runnerd.workflow.graph import NodeState

_OUTPUT = re.compile(r"\bneeds\s*[.\[].*\boutputs\b|\bneeds\s*\)", re.IGNORECASE | re.DOTALL)


class LegPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One leg of a job: its name, values and labels, and the image that would run it, if any."""

    name: str
    matrix: dict[str, Any] | None
    labels: tuple[str, ...]
    image: str | None


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One job if all before it goes well; `runs` is None where only another job's output can tell."""

    key: str
    needs: tuple[str, ...]
    runs: bool | None
    reason: str = ""
    legs: tuple[LegPlan, ...] = ()


class WorkflowPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow file: whether the event starts it, why or why not, and its jobs."""

    path: str
    name: str
    matched: bool
    reason: str
    problems: tuple[str, ...] = ()
    jobs: tuple[JobPlan, ...] = ()


def plan(
    path: Annotated[Path, typer.Argument(help="The checkout.")] = Path(),
    event: Annotated[str, typer.Option(help="push, pull_request or workflow_dispatch.")] = "push",
    payload: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its payload; without one, made from the checkout.")
    ] = None,
    workflow: Annotated[
        str, typer.Option("--workflow", "-W", metavar="FILE", help="The file workflow_dispatch starts.")
    ] = "",
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="K=V", help="An input of workflow_dispatch.")
    ] = None,
    variables: Annotated[
        list[str] | None, typer.Option("--var", metavar="K=V", help="A configuration variable (vars.K).")
    ] = None,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> None:
    """Show what an event would run and why not; exit 4 when that is nothing, 1 when a file has errors."""
    from runnerd.cli.lint import FOLDER, workflow_files

    settings = options.load_config(config)
    files = workflow_files(path)
    if not files:
        fail(f"no workflow files in {path / FOLDER}: name a checkout that has some", Code.NOTHING)
    from runnerd.cli.event import happened

    what = happened(path, event, payload, workflow=workflow, inputs=options.pairs("--input", inputs or ()))
    given = options.pairs("--var", variables or ())
    plans = [
        _plan(file, str(file.relative_to(path)), what.event, what.changed, given, settings) for file in files
    ]
    if json:
        show_json({"event": event, "workflows": msgspec.to_builtins(plans)})
    else:
        for each in plans:
            typer.echo("\n".join(lines(each)))
    if any(each.problems for each in plans):
        raise typer.Exit(Code.NOT_GREEN)
    if not any(job.runs is not False for each in plans for job in each.jobs):
        raise typer.Exit(Code.NOTHING)


def _plan(
    file: Path,
    path: str,
    event: Event,
    changed: tuple[str, ...] | None,
    variables: Mapping[str, str],
    settings: Config,
) -> WorkflowPlan:
    from runnerd.cli.lint import read
    from runnerd.config import sizes
    from runnerd.jobs.contexts import github_context
    from runnerd.workflow import matches

    workflow, problems = read(file, path)
    errors = tuple(str(problem) for problem in problems if problem.severity == "error")
    if workflow is None:
        return WorkflowPlan(
            path=path, name=path, matched=False, reason="the file has errors", problems=errors
        )
    match = matches(event, event.payload, workflow, changed)
    jobs: tuple[JobPlan, ...] = ()
    if match.matched:
        github = github_context(
            event, workflow=workflow, server_url=settings.forge.server, api_url=settings.forge.api
        )
        contexts = {"github": github, "inputs": event.inputs, "vars": variables}
        claims = {name: kind.labels for name, kind in sizes.kinds(settings.images).items()}
        jobs = forecast(workflow, contexts, claims)
    return WorkflowPlan(
        path=path,
        name=workflow.name,
        matched=match.matched,
        reason=match.reason,
        problems=errors if match.matched else (),
        jobs=jobs,
    )


def forecast(
    workflow: Workflow, contexts: Mapping[str, Any], images: Mapping[str, tuple[str, ...]]
) -> tuple[JobPlan, ...]:
    """Play a run through in which every job that starts succeeds, and return what became of each job.

    The jobs of a called workflow follow the job that calls it, under the whole way to them.
    """
    from runnerd.workflow import graph
    from runnerd.workflow.calls import Scope, scope_of
    from runnerd.workflow.concurrency import Standing

    root = Scope(workflow=workflow, contexts=contexts)
    nodes = {key: graph.NodeState(key=key) for key in workflow.jobs}
    holds: dict[tuple[str, int], graph.Hold] = {}
    plans: dict[str, JobPlan] = {}
    while True:
        actions = graph.decide(workflow, nodes, contexts, cancelled=False, holds=holds)
        if not actions or isinstance(actions[-1], graph.Finish):
            return tuple(plans[key] for key in _in_order(workflow, plans))
        calls = {key: node.calls for key, node in nodes.items() if node.calls}
        for action in actions:
            if isinstance(action, graph.Finish):
                continue
            if isinstance(action, graph.Join):  # nobody else is in a group here
                holds[action.key, action.leg] = graph.Hold(action.group, Standing.HOLDING)
                continue
            if isinstance(action, graph.Leave):
                holds[action.key, action.leg] = graph.Hold("", Standing.OVER)
                continue
            scope, id = scope_of(root, calls, action.key)
            key, job = action.key, scope.workflow.jobs[id]
            needs = tuple(scope.prefix + need for need in job.needs)
            elsewhere = bool(job.uses) and job.called is None and not isinstance(action, graph.Skip)
            if elsewhere or _awaits_output(job):
                reason = f"only the outputs of {', '.join(needs)} can tell"
                if elsewhere:
                    reason = f"calls {job.uses}, which is not in this checkout"
                plans[key] = JobPlan(key=key, needs=needs, runs=None, reason=reason)
                nodes[key] = _done(key, Outcome.SUCCESS)
            elif isinstance(action, graph.Enter):
                plans[key] = JobPlan(key=key, needs=needs, runs=True, reason=f"calls {job.uses}")
                nodes[key] = graph.NodeState(key=key, calls=action.calls)
                nodes |= {inner: graph.NodeState(key=inner) for inner, _ in action.jobs}
            elif isinstance(action, graph.Expand):
                legs = tuple(_leg(each, images) for each in action.legs)
                plans[key] = JobPlan(key=key, needs=needs, runs=True, legs=legs)
                nodes[key] = _done(key, Outcome.SUCCESS)
            elif isinstance(action, graph.Skip | graph.Fail):
                outcome = Outcome.SKIPPED if isinstance(action, graph.Skip) else action.outcome
                plans[key] = JobPlan(key=key, needs=needs, runs=False, reason=action.reason)
                nodes[key] = _done(key, outcome)


def _in_order(workflow: Workflow, plans: Mapping[str, JobPlan]) -> Iterator[str]:
    """The planned jobs in the order of the file, each followed by those that it called."""
    for id in workflow.jobs:
        yield from (key for key in plans if key == id or key.startswith(f"{id}."))


def _awaits_output(job: Job) -> bool:
    """Whether something decided before the job starts reads what another job gives."""
    strategy = job.strategy
    decided = (job.condition, job.runs_on, job.name, strategy and (strategy.matrix, strategy.max_parallel))
    return bool(job.needs) and bool(_OUTPUT.search(msgspec.json.encode(decided, enc_hook=str).decode()))


def _done(key: str, outcome: Outcome) -> NodeState:
    from runnerd.workflow.graph import LegState, NodeState

    return NodeState(key=key, legs=(LegState(index=0, phase=Phase.DONE, outcome=outcome),))


def _leg(expanded: Any, images: Mapping[str, tuple[str, ...]]) -> LegPlan:
    from runnerd.machines.labels import image_for

    leg, labels = expanded.leg, expanded.labels
    return LegPlan(name=leg.name, matrix=leg.matrix, labels=labels, image=image_for(images, labels))


def lines(plan: WorkflowPlan) -> Iterator[str]:
    """Yield a workflow's plan as a tree."""
    verdict = "starts" if plan.matched else "does not start"
    yield f"{clean(plan.path)} ({clean(plan.name)}) {verdict}: {clean(plan.reason)}"
    for problem in plan.problems:
        yield f"  ✗ {clean(problem)}"
    for number, job in enumerate(plan.jobs, start=1):
        last = number == len(plan.jobs)
        needs = f" (needs {', '.join(map(clean, job.needs))})" if job.needs else ""
        says = {True: "", False: ": does not run", None: ": not known yet"}[job.runs]
        reason = f", {clean(job.reason)}" if job.reason else ""
        yield f"  {'└' if last else '├'}─ {clean(job.key)}{needs}{says}{reason}"
        for index, leg in enumerate(job.legs, start=1):
            place = f"on {leg.image}" if leg.image else "not ours: no image claims"
            trunk, branch = " " if last else "│", "└" if index == len(job.legs) else "├"
            yield f"  {trunk}  {branch}─ {clean(leg.name)} {place} [{clean(', '.join(leg.labels))}]"
