"""Reusable workflows: finding what `uses` names, and checking the call against what it declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.model import Input, Job, Limits, NotLookedUp, Scalar, Trigger, Workflow, WorkflowErrors
from runnerd.workflow.reader.settings import PERMISSIONS
from runnerd.workflow.reader.source import Source
from runnerd.workflow.yaml import Map

Permissions = Mapping[str, str]
Load = Callable[[str, str, Limits, frozenset[str], "Caller"], Workflow]

_LOCAL = re.compile(r"\./\.github/workflows/[^/@]+\.ya?ml").fullmatch
_REMOTE = re.compile(
    r"([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)/\.github/workflows/[^/@]+\.ya?ml@(.+)", re.S
).fullmatch
_LEVELS = {"none": 0, "read": 1, "write": 2}


class Caller:
    """Who calls the file being read: how files are found, what the token may do, how deep it is."""

    def __init__(
        self,
        *,
        resolve: Callable[[str], str] | None = None,
        permissions: Permissions | None = None,
        depth: int = 0,
        name: str = "",
        files: dict[str, str] | None = None,
        done: dict[tuple[str, str, int], Workflow | None] | None = None,
        sizes: dict[str, int] | None = None,
    ) -> None:
        self.resolve, self.permissions, self.depth, self.name = resolve, permissions, depth, name
        self.files = files if files is not None else {}
        self.done = done if done is not None else {}
        """What was read already, None where it had problems: no file is read twice for the same caller."""
        self.sizes = sizes if sizes is not None else {}
        """How many jobs each file brings in, with those of its own calls."""

    def calling(self, name: str, permissions: Permissions | None) -> Caller:
        """The caller that a called file sees."""
        return Caller(
            resolve=self.resolve,
            permissions=permissions,
            depth=self.depth + 1,
            name=name,
            files=self.files,
            done=self.done,
            sizes=self.sizes,
        )

    def absolute(self, uses: str) -> str:
        """`uses` as seen from the first file: what is local to a remote file is in its repository."""
        return _absolute(uses, self.name)


def _absolute(uses: str, caller: str) -> str:
    outer = _REMOTE(caller)
    return f"{outer.group(1)}/{uses[2:]}@{outer.group(2)}" if outer and uses.startswith("./") else uses


def names(workflow: Workflow, name: str = "") -> tuple[str, ...]:
    """The reusable workflows that a file calls, as seen from the first file; `name` is empty for that one."""
    written = (job.uses for job in workflow.jobs.values() if job.uses is not None)
    return tuple(dict.fromkeys(_absolute(uses, name) for uses in written))


class Named(msgspec.Struct, frozen=True):
    """A reusable workflow's name in parts; `repository` and `ref` are empty for one of the same commit."""

    repository: str
    path: str
    ref: str


def parts(name: str) -> Named:
    """Take a name apart as `names` gives it; raises LookupError for one that names no reusable workflow."""
    if _LOCAL(name):
        return Named("", name[2:], "")
    remote = _REMOTE(name)
    if remote is None:
        raise LookupError("it names no reusable workflow")
    place, _, ref = name.partition("@")
    return Named(remote.group(1), place.removeprefix(f"{remote.group(1)}/"), ref)


def attach(source: Source, workflow: Workflow, root: Map, caller: Caller, load: Load) -> Workflow:
    """The workflow with every called one under its job, all calls checked."""
    jobs = dict(workflow.jobs)
    for name, job in workflow.jobs.items():
        if job.uses is not None:
            called = _call(source, workflow, job, root["jobs"], caller, load)
            if called is not None:
                jobs[name] = msgspec.structs.replace(job, called=called)
    size = len(jobs) + sum(
        caller.sizes.get(caller.absolute(job.uses), 0) for job in jobs.values() if job.uses is not None
    )
    caller.sizes[caller.name] = size
    if size > source.limits.jobs:
        source.problem(
            root.values_at["jobs"], f"The workflow may not contain more than {source.limits.jobs} jobs"
        )
    return msgspec.structs.replace(workflow, jobs=jobs)


def _call(
    source: Source, workflow: Workflow, job: Job, jobs: Map, caller: Caller, load: Load
) -> Workflow | None:
    uses, body = str(job.uses), jobs[job.id]
    at = body.values_at["uses"]
    if not (_LOCAL(uses) or _REMOTE(uses)):
        source.problem(
            at,
            f"{uses[:200]!r} names no reusable workflow: expected ./.github/workflows/FILE.yml "
            "or OWNER/REPO/.github/workflows/FILE.yml@REF",
        )
        return None
    if caller.resolve is None:
        source.cannot(at, f"{uses[:200]!r} was not looked up, so its jobs are unknown")
        return None
    called = _read(source, workflow, job, at, caller, load)
    if called is None:
        return None
    trigger = next((each for each in called.triggers if each.event == "workflow_call"), None)
    if trigger is None:
        source.problem(at, f"{uses[:200]!r} cannot be called: `workflow_call` is not among its events")
        return None
    allowed = _granted(job, workflow, caller)
    if allowed is not None:
        _check_permissions(source, called, jobs.keys_at[job.id], allowed)
    _check_inputs(source, job, body, trigger)
    _check_secrets(source, job, body, trigger)
    return called


def _read(
    source: Source, workflow: Workflow, job: Job, at: Any, caller: Caller, load: Load
) -> Workflow | None:
    assert caller.resolve is not None
    if caller.depth >= source.limits.calls:
        source.problem(at, f"Nested reusable workflow depth exceeded {source.limits.calls}.")
        return None
    name = caller.absolute(str(job.uses))
    if name not in caller.files:
        if len(caller.files) >= source.limits.files:
            source.problem(at, f"more than {source.limits.files} different reusable workflows are called")
            return None
        try:
            caller.files[name] = caller.resolve(name)
        except NotLookedUp as missing:
            source.cannot(at, f"{name[:200]!r} was not looked up: {missing.args[0]}"[:1000], "warning")
            return None
        except LookupError as missing:
            reason = str(missing.args[0]) if missing.args else "not found"
            source.problem(at, f"{name[:200]!r} cannot be called: {reason[:500]}")
            return None
    allowed = _granted(job, workflow, caller)
    key = (name, repr(allowed), caller.depth)
    if key not in caller.done:
        caller.done[key] = None
        try:
            caller.done[key] = load(
                caller.files[name], name, source.limits, source.features, caller.calling(name, allowed)
            )
        except WorkflowErrors as errors:
            source.called(errors.problems)
    called = caller.done[key]
    if called is None:
        return None  # its problems were noted where it was first called, and reach the first file from there
    for problem in called.unsupported:
        source.cannot(at, f"in the called workflow: {problem}"[:1000], problem.severity)
    return called


def _granted(job: Job, workflow: Workflow, caller: Caller) -> Permissions | None:
    """What the called file's token may do at most; None where nothing says."""
    for said in (job.permissions, workflow.permissions):
        if said is not None:
            return _levels(said)
    return caller.permissions


def _levels(said: Any) -> Permissions:
    if said == "write-all":
        return {name: levels[0] if "write" not in levels else "write" for name, levels in PERMISSIONS.items()}
    if said == "read-all":
        return {name: "read" if "read" in levels else "none" for name, levels in PERMISSIONS.items()}
    return dict(said)


def _check_permissions(source: Source, called: Workflow, at: Any, allowed: Permissions) -> None:
    """A called file, and each of its jobs, asks for no more than its caller has."""
    if called.permissions is not None:
        _compare(source, at, f"the workflow {called.path!r}", called.permissions, allowed)
    for name, job in called.jobs.items():
        if job.permissions is not None:
            _compare(source, at, f"the job {name!r} of {called.path!r}", job.permissions, allowed)


def _compare(source: Source, at: Any, who: str, asked: Any, allowed: Permissions) -> None:
    more = {
        name: level
        for name, level in _levels(asked).items()
        if _LEVELS.get(level, 0) > _LEVELS.get(allowed.get(name, "none"), 0)
    }
    if more:
        wants = ", ".join(f"{name}: {level}" for name, level in more.items())
        has = ", ".join(f"{name}: {allowed.get(name, 'none')}" for name in more)
        source.problem(at, f"{who[:200]} is requesting '{wants}', but is only allowed '{has}'")


def _check_inputs(source: Source, job: Job, body: Map, trigger: Trigger) -> None:
    declared = {name.lower(): found for name, found in trigger.inputs.items()}
    given = {name.lower() for name in job.with_}
    for name, found in trigger.inputs.items():
        if found.required and name.lower() not in given:
            source.problem(
                body.values_at["uses"], f"Input {name} is required, but not provided while calling."
            )
    for name, value in job.with_.items():
        values_at, keys_at = body["with"].values_at, body["with"].keys_at
        if name.lower() not in declared:
            source.problem(
                values_at.get(name, body.values_at["with"]),
                f"Invalid input, {name[:100]} is not defined in the referenced workflow.",
            )
        elif not _fits(declared[name.lower()], value):
            source.problem(
                values_at.get(name, keys_at.get(name, body.values_at["with"])),
                f"Unexpected value {to_text(value)[:100]!r}; the input is a {declared[name.lower()].type}",
            )


def _fits(declared: Input, value: Scalar) -> bool:
    if isinstance(value, str) and "${{" in value:
        return True
    if declared.type == "boolean":
        return isinstance(value, bool)
    if declared.type == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return True


def _check_secrets(source: Source, job: Job, body: Map, trigger: Trigger) -> None:
    if job.secrets == "inherit" or isinstance(job.secrets, str):
        return
    declared = {name.lower() for name in trigger.secrets}
    given = {name.lower() for name in job.secrets}
    for name, required in trigger.secrets.items():
        if required and name.lower() not in given:
            source.problem(
                body.values_at["uses"], f"Secret {name} is required, but not provided while calling."
            )
    for name in job.secrets:
        if name.lower() not in declared:
            source.problem(
                body["secrets"].values_at.get(name, body.values_at["secrets"]),
                f"Invalid secret, {name[:100]} is not defined in the referenced workflow.",
            )
