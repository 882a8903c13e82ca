"""Reusable workflows while they run: where a job stands, and what it sees of whoever called its workflow.

A job that calls a workflow becomes, leg by leg, the jobs of that workflow. They are known by the whole way
to them, `CALLER.LEG/JOB`, and nested calls add to it: `deploy.0/build.2/test`. What a call hands over is
fixed when it is made (`Call`); secrets are not: `secrets_of` follows the chain of `secrets:` each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from runnerd.model import CalledFile
from runnerd.workflow.expressions import interpolate, value_of
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.legs import strategy_context
from runnerd.workflow.matrix import expand_matrix, leg_name
from runnerd.workflow.model import Call, ExpressionError, Input, Job, Trigger, Workflow

JOINT = " / "
"""Between the name of a call and that of a job in it."""
_EMPTY: dict[str, Any] = {"string": "", "boolean": False, "number": 0}

Needs = Callable[["Scope", str], Mapping[str, Any]]
"""The `needs` context of a job, by its scope and its id there."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow that runs: the run's own, or one that was called."""

    workflow: Workflow
    contexts: Mapping[str, Any]
    """`github`, `vars` and `inputs`, as every job of this workflow sees them."""
    call: Call | None = None
    job: Job | None = None
    """The job that calls it."""
    outer: Scope | None = None
    """Where that job is."""

    @property
    def prefix(self) -> str:
        """What the keys of its jobs begin with."""
        return f"{self.call.key}.{self.call.leg}/" if self.call is not None else ""

    def named(self, name: str) -> str:
        """A job's name as people see it."""
        return f"{self.call.name}{JOINT}{name}" if self.call is not None else name

    def enter(self, job: Job, call: Call) -> Scope:
        """The scope of one call that a job of this one makes; raises LookupError if it calls nothing."""
        if job.called is None:
            raise LookupError(f"job {self.prefix}{job.id} calls no workflow that is known")
        contexts = {**self.contexts, "inputs": call.inputs}
        return Scope(workflow=job.called, contexts=contexts, call=call, job=job, outer=self)


def is_plain(workflow: Workflow) -> bool:
    """Whether a file calls no other and keeps no concurrency group."""
    jobs = workflow.jobs.values()
    return workflow.concurrency is None and all(job.uses is None and job.concurrency is None for job in jobs)


def scope_of(scope: Scope, calls: Mapping[str, tuple[Call, ...]], key: str) -> tuple[Scope, str]:
    """Where a job is that has this key in the outermost `scope`, and its id there.

    `calls` has the calls that were made, by the key of who made them. Raises LookupError for an unknown way.
    """
    *way, id = key.split("/")
    for part in way:
        caller, _, leg = part.rpartition(".")
        job = scope.workflow.jobs.get(caller)
        made = calls.get(f"{scope.prefix}{caller}", ())
        call = next((call for call in made if str(call.leg) == leg), None)
        if job is None or call is None:
            raise LookupError(f"the run has no call {part!r} on the way to job {key!r}")
        scope = scope.enter(job, call)
    if id not in scope.workflow.jobs:
        raise LookupError(f"the run has no job {key!r}")
    return scope, id


def callers_of(key: str) -> Iterator[str]:
    """The keys of all jobs that called this one, outermost first, and its own: `a`, `a.0/b`, `a.0/b.1/c`."""
    parts = key.split("/")
    yield from ("/".join(parts[:end]).rpartition(".")[0] for end in range(1, len(parts)))
    yield key


def make_calls(scope: Scope, job: Job, contexts: Mapping[str, Any]) -> tuple[Call, ...]:
    """The calls of a job, one a leg, from contexts that include its `needs`.

    Raises `ExpressionError` where a value cannot be used, or an input is not of its type.
    """
    if job.called is None:
        raise ExpressionError(f"the workflow {job.uses!r} was not looked up")
    name = job.id if job.name is None or job.name == "" else job.name
    literal = not (isinstance(name, str) and "${{" in name)
    made = []
    for leg in expand_matrix(job.strategy, contexts, job_name=to_text(name) if literal else job.id):
        inner = {**contexts, **leg_contexts(job, contexts, leg.index, leg.total, leg.matrix)}
        shown = leg.name if literal else leg_name(interpolate(name, inner), ()) or job.id
        made.append(
            Call(
                key=f"{scope.prefix}{job.id}",
                leg=leg.index,
                legs=leg.total,
                name=scope.named(shown),
                matrix=leg.matrix,
                inputs=_inputs(job, inner),
            )
        )
    return tuple(made)


def leg_contexts(
    job: Job, contexts: Mapping[str, Any], index: int, total: int, matrix: dict[str, Any] | None
) -> dict[str, Any]:
    """`matrix` and `strategy` of one leg. Raises `ExpressionError`."""
    return {"matrix": matrix, "strategy": strategy_context(job, contexts, index, total)}


def declared(workflow: Workflow) -> Trigger:
    """What a workflow says of being called; raises LookupError for one that cannot be."""
    for trigger in workflow.triggers:
        if trigger.event == "workflow_call":
            return trigger
    raise LookupError(f"{workflow.path} has no `workflow_call`")


def _inputs(job: Job, contexts: Mapping[str, Any]) -> dict[str, Any]:
    assert job.called is not None
    given = {name.lower(): value for name, value in job.with_.items()}
    inputs: dict[str, Any] = {}
    for name, said in declared(job.called).inputs.items():
        if name.lower() in given:
            inputs[name] = _typed(name, said, value_of(given[name.lower()], contexts))
        elif said.default is not None:
            visible = {**contexts, "inputs": {}, "needs": {}, "matrix": None, "strategy": {}}
            inputs[name] = _typed(name, said, value_of(said.default, visible))
        else:
            inputs[name] = _EMPTY.get(said.type, "")
    return inputs


def _typed(name: str, said: Input, value: Any) -> Any:
    """The value as its type asks: GitHub turns anything plain into text, and no text into anything else."""
    if said.type == "boolean":
        fits = isinstance(value, bool)
    elif said.type == "number":
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        fits = not isinstance(value, list | tuple | Mapping)
        value = to_text(value) if fits else value
    if value is None and said.type != "string":
        return _EMPTY[said.type]
    if not fits:
        raise ExpressionError(f"input {name!r} is a {said.type}, and was given {to_text(value)[:100]!r}")
    return value


def outputs_of(inner: Scope, jobs: Mapping[str, Any]) -> dict[str, str]:
    """The outputs of a called workflow, from its `jobs` context. Raises `ExpressionError`."""
    outputs = {}
    for name, value in declared(inner.workflow).outputs.items():
        try:
            outputs[name] = to_text(value_of(value, {**inner.contexts, "jobs": jobs}))
        except ExpressionError as wrong:
            raise ExpressionError(f"output {name!r} of {inner.workflow.path}: {wrong}") from wrong
    return outputs


def secrets_of(scope: Scope, secrets: Mapping[str, str], needs: Needs) -> dict[str, str]:
    """The `secrets` context in a scope, where the run has these; values are made here and kept nowhere.

    GITHUB_TOKEN goes through every call. Raises `ExpressionError`.
    """
    if scope.outer is None or scope.call is None or scope.job is None:
        return dict(secrets)
    outer, call, job = secrets_of(scope.outer, secrets, needs), scope.call, scope.job
    if job.secrets == "inherit":
        return outer
    contexts = {**scope.outer.contexts, "needs": needs(scope.outer, job.id), "secrets": outer}
    contexts |= leg_contexts(job, contexts, call.leg, call.legs, call.matrix)
    passed = {name: value for name, value in outer.items() if name.upper() == "GITHUB_TOKEN"}
    if isinstance(job.secrets, Mapping):
        for name, value in job.secrets.items():
            passed[name] = interpolate(value, contexts) if isinstance(value, str) else to_text(value)
    return passed


def file_of(scope: Scope, github: Mapping[str, Any], files: Mapping[str, CalledFile]) -> dict[str, str]:
    """Where the workflow of a scope comes from, as the `job` context tells it.

    `files` are the called ones by the name that `Workflow.path` has.
    """
    if scope.call is None:
        ref, sha = str(github["workflow_ref"]), str(github["workflow_sha"])
        repository, path = str(github["repository"]), scope.workflow.path
    else:
        file = files[scope.workflow.path]
        repository, path, sha = file.repository, file.path, file.sha
        ref = f"{repository}/{path}@{file.ref}"
    return {
        "workflow_ref": ref,
        "workflow_sha": sha,
        "workflow_repository": repository,
        "workflow_file_path": path,
    }
