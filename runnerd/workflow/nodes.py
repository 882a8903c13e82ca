"""How the jobs of a run stand, what other jobs see of that, and what may be decided about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerd.model import Outcome, Phase
from runnerd.workflow.calls import Scope, callers_of, outputs_of
from runnerd.workflow.concurrency import Standing
from runnerd.workflow.legs import ExpandedLeg
from runnerd.workflow.model import Call


class LegState(msgspec.Struct, frozen=True, kw_only=True):
    """One leg of a job as it stands."""

    index: int
    total: int = 1
    name: str = ""
    matrix: dict[str, Any] | None = None
    labels: tuple[str, ...] = ()
    phase: Phase = Phase.WAITING
    outcome: Outcome | None = None
    outputs: Mapping[str, str] = msgspec.field(default_factory=dict)
    allowed_to_fail: bool = False
    carried: bool = False
    """It ended in an earlier attempt of the run: what it came to counts, and stops no other leg."""


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """One job as it stands; `legs` is None until its matrix was expanded.

    One that called a workflow has its `calls`, and no legs: the called jobs are nodes of their own.
    """

    key: str
    legs: tuple[LegState, ...] | None = None
    calls: tuple[Call, ...] = ()


class Expand(msgspec.Struct, frozen=True):
    """The job may run: record its legs, all WAITING. Whether each starts is the next decision."""

    key: str
    legs: tuple[ExpandedLeg, ...]


class Enter(msgspec.Struct, frozen=True):
    """The job may call its workflow: record the calls, and in its place the jobs that they bring in."""

    key: str
    calls: tuple[Call, ...]
    jobs: tuple[tuple[str, str], ...]
    """(key, name) of each."""


class Skip(msgspec.Struct, frozen=True):
    """End the job (every leg that has not ended, where `index` is None) as skipped."""

    key: str
    index: int | None
    reason: str


class Start(msgspec.Struct, frozen=True):
    """Queue a WAITING leg for a machine."""

    key: str
    index: int


class Cancel(msgspec.Struct, frozen=True):
    """Ask a QUEUED or RUNNING leg to stop; repeated for as long as it has not ended."""

    key: str
    index: int
    reason: str


class Fail(msgspec.Struct, frozen=True):
    """End the job (every leg that is WAITING, where `index` is None) with an outcome, without a machine."""

    key: str
    index: int | None
    outcome: Outcome
    reason: str


class Hold(msgspec.Struct, frozen=True):
    """How something of this run stands in the concurrency group that it came to."""

    group: str
    standing: Standing
    reason: str = ""


class Join(msgspec.Struct, frozen=True):
    """Come to a concurrency group, and go on when the answer is known.

    Who comes is a job's leg, one call of a job, a called workflow (`key` ends with a slash), or the whole
    run (`key` is empty).
    """

    key: str
    leg: int
    group: str
    cancels: bool
    queue: str


class Leave(msgspec.Struct, frozen=True):
    """What came to a group has ended."""

    key: str
    leg: int


class Finish(msgspec.Struct, frozen=True):
    """Every job ended: end the run."""

    outcome: Outcome
    reason: str


Action = Expand | Enter | Join | Leave | Skip | Start | Cancel | Fail | Finish

Holds = Mapping[tuple[str, int], Hold]
"""By key and leg, as `Join` has them."""


_RESULTS = {Outcome.SUCCESS: "success", Outcome.SKIPPED: "skipped", Outcome.CANCELLED: "cancelled"}


def with_calls(nodes: Mapping[str, NodeState]) -> dict[str, NodeState]:
    """The nodes, where one that called a workflow has the legs of all the jobs which that brought in."""
    callers = {key for key, node in nodes.items() if node.calls}
    below: dict[str, list[LegState]] = {key: [] for key in callers}
    for key, node in nodes.items() if callers else ():
        if key not in callers:
            for caller in callers_of(key):
                below.get(caller, []).extend((LegState(index=0),) if node.legs is None else node.legs)
    return {
        key: msgspec.structs.replace(node, legs=tuple(below[key])) if key in callers else node
        for key, node in nodes.items()
    }


def needs_context(scope: Scope, nodes: Mapping[str, NodeState], key: str) -> dict[str, Any]:
    """The `needs` context of a job: `result` and `outputs` of each job that it names.

    `nodes` are those of `with_calls`, `key` is the job's id in its scope. Outputs of a matrix are merged in
    the order of its legs; an empty value never hides another. Raises `ExpressionError` where an output of a
    called workflow cannot be evaluated.
    """
    return {need: _need(scope, nodes, need) for need in scope.workflow.jobs[key].needs}


def _need(scope: Scope, nodes: Mapping[str, NodeState], key: str) -> dict[str, Any]:
    node = nodes.get(scope.prefix + key)
    given: list[Mapping[str, str]] = []
    if node is not None and node.calls:
        job = scope.workflow.jobs[key]
        for inner in (scope.enter(job, call) for call in node.calls):
            given.append(outputs_of(inner, {id: _need(inner, nodes, id) for id in inner.workflow.jobs}))
    elif node is not None:
        given = [leg.outputs for leg in node.legs or ()]
    outputs: dict[str, str] = {}
    for each in given:
        outputs.update((name, value) for name, value in each.items() if value or name not in outputs)
    return {"result": node_result(node), "outputs": outputs}


def node_result(node: NodeState | None) -> str:
    """`success`, `failure`, `cancelled` or `skipped`, as other jobs see it; empty while it has not ended."""
    if node is None or not ended(node):
        return ""
    results = {leg_result(leg) for leg in node.legs or ()}
    for result in ("failure", "cancelled", "success"):
        if result in results:
            return result
    return "skipped"


def leg_result(leg: LegState) -> str:
    """The result of one leg that ended, as other jobs see it."""
    outcome = leg.outcome or Outcome.INFRA_ERROR
    result = _RESULTS.get(outcome, "failure")
    return "success" if result == "failure" and leg.allowed_to_fail else result


def ended(node: NodeState | None) -> bool:
    """Whether every leg of a job has ended, and it has any."""
    return node is not None and bool(node.legs) and all(leg.phase is Phase.DONE for leg in node.legs or ())


def run_outcome(nodes: Mapping[str, NodeState]) -> Outcome:
    """How a run ended whose jobs all ended: failure over cancelled over success over skipped.

    A run whose only bad jobs could not be started as written is a `startup_failure`; one whose only bad jobs
    were lost, or failed by our own fault, says so.
    """
    legs = [leg for node in nodes.values() for leg in node.legs or ()]
    results = {leg_result(leg) for leg in legs}
    if "failure" in results:
        bad = {leg.outcome for leg in legs if leg_result(leg) == "failure"}
        for outcome in (Outcome.STARTUP_FAILURE, Outcome.LOST, Outcome.INFRA_ERROR, Outcome.TIMED_OUT):
            if bad == {outcome}:
                return outcome
        return Outcome.FAILURE
    if "cancelled" in results:
        return Outcome.CANCELLED
    return Outcome.SUCCESS if "success" in results else Outcome.SKIPPED
