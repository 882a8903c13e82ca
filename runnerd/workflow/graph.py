"""The job graph as a pure scheduler: given how every job stands, what to do next.

`decide` never changes anything; the same state gives the same actions, after a crash too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerd.model import Outcome, Phase
from runnerd.workflow.expressions import condition
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.legs import ExpandedLeg, boolean, expand_job, max_parallel, strategy_context
from runnerd.workflow.model import ExpressionError, Job, Workflow

__all__ = [
    "Action",
    "Cancel",
    "Expand",
    "ExpandedLeg",
    "Fail",
    "Finish",
    "LegState",
    "NodeState",
    "Skip",
    "Start",
    "condition_scope",
    "decide",
    "expand_job",
    "needs_context",
    "node_result",
    "run_outcome",
    "strategy_context",
]


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


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """One job as it stands; `legs` is None until its matrix was expanded."""

    key: str
    legs: tuple[LegState, ...] | None = None


class Expand(msgspec.Struct, frozen=True):
    """The job may run: record its legs, all WAITING. Whether each starts is the next decision."""

    key: str
    legs: tuple[ExpandedLeg, ...]


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


class Finish(msgspec.Struct, frozen=True):
    """Every job ended: end the run."""

    outcome: Outcome
    reason: str


Action = Expand | Skip | Start | Cancel | Fail | Finish

_RESULTS = {Outcome.SUCCESS: "success", Outcome.SKIPPED: "skipped", Outcome.CANCELLED: "cancelled"}
_PAST = {"failure": "failed", "cancelled": "was cancelled", "skipped": "was skipped"}
_CANCELLED = "the run was cancelled"


def decide(
    workflow: Workflow, nodes: Mapping[str, NodeState], contexts: Mapping[str, Any], *, cancelled: bool
) -> tuple[Action, ...]:
    """What to do now, in the order of the file; nothing means wait.

    `contexts` has `github`, `vars`, `inputs` and the like; `needs` is added here. A leg that is QUEUED or
    RUNNING is never started again; a job that the caller does not know yet counts as not expanded.
    """
    return _Decision(workflow, nodes, contexts, cancelled).actions()


def needs_context(workflow: Workflow, nodes: Mapping[str, NodeState], key: str) -> dict[str, Any]:
    """The `needs` context of a job: `result` and `outputs` of each job that it names.

    Outputs of a matrix are merged in the order of its legs; an empty value never hides another.
    """
    return {need: _need(nodes.get(need)) for need in workflow.jobs[key].needs}


def condition_scope(
    workflow: Workflow,
    nodes: Mapping[str, NodeState],
    contexts: Mapping[str, Any],
    key: str,
    *,
    cancelled: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contexts and functions that the `if` of a job sees, for who explains what it came to."""
    decision, job = _Decision(workflow, nodes, contexts, cancelled), workflow.jobs[key]
    return decision._job_contexts(job), decision._functions(job)


def _need(node: NodeState | None) -> dict[str, Any]:
    outputs: dict[str, str] = {}
    for leg in (node.legs if node is not None else None) or ():
        outputs.update((name, value) for name, value in leg.outputs.items() if value or name not in outputs)
    return {"result": node_result(node), "outputs": outputs}


def node_result(node: NodeState | None) -> str:
    """`success`, `failure`, `cancelled` or `skipped`, as other jobs see it; empty while it has not ended."""
    if node is None or not _ended(node):
        return ""
    results = {_leg_result(leg) for leg in node.legs or ()}
    for result in ("failure", "cancelled", "success"):
        if result in results:
            return result
    return "skipped"


def _leg_result(leg: LegState) -> str:
    outcome = leg.outcome or Outcome.INFRA_ERROR
    result = _RESULTS.get(outcome, "failure")
    return "success" if result == "failure" and leg.allowed_to_fail else result


def _ended(node: NodeState | None) -> bool:
    return node is not None and bool(node.legs) and all(leg.phase is Phase.DONE for leg in node.legs or ())


def run_outcome(nodes: Mapping[str, NodeState]) -> Outcome:
    """How a run ended whose jobs all ended: failure over cancelled over success over skipped.

    A run whose only bad jobs could not be started as written is a `startup_failure`; one whose only bad jobs
    were lost, or failed by our own fault, says so.
    """
    legs = [leg for node in nodes.values() for leg in node.legs or ()]
    results = {_leg_result(leg) for leg in legs}
    if "failure" in results:
        bad = {leg.outcome for leg in legs if _leg_result(leg) == "failure"}
        for outcome in (Outcome.STARTUP_FAILURE, Outcome.LOST, Outcome.INFRA_ERROR, Outcome.TIMED_OUT):
            if bad == {outcome}:
                return outcome
        return Outcome.FAILURE
    if "cancelled" in results:
        return Outcome.CANCELLED
    return Outcome.SUCCESS if "success" in results else Outcome.SKIPPED


class _Decision:
    def __init__(
        self, workflow: Workflow, nodes: Mapping[str, NodeState], contexts: Mapping[str, Any], cancelled: bool
    ) -> None:
        self._workflow, self._nodes, self._contexts, self._cancelled = workflow, nodes, contexts, cancelled
        self._actions: list[Action] = []

    def actions(self) -> tuple[Action, ...]:
        whole = True
        for key, job in self._workflow.jobs.items():
            node = self._nodes.get(key) or NodeState(key=key)
            if _ended(node):
                continue
            whole = False
            legs = node.legs or ()
            if any(leg.phase is not Phase.WAITING for leg in legs):
                self._going(job, legs)
            elif all(_ended(self._nodes.get(need)) for need in job.needs):
                self._may_start(job, node)
        if whole:
            outcome = run_outcome({key: self._nodes[key] for key in self._workflow.jobs})
            reason = _CANCELLED if self._cancelled and outcome is Outcome.CANCELLED else ""
            self._actions.append(Finish(outcome, reason))
        return tuple(self._actions)

    def _may_start(self, job: Job, node: NodeState) -> None:
        """Every need ended and no leg left WAITING: the job's `if` decides, once."""
        try:
            holds = self._holds(job)
        except ExpressionError as wrong:
            self._fail(job, f"`if` of job {job.id!r}: {wrong}")
            return
        if not holds:
            if self._cancelled:
                self._actions.append(Fail(job.id, None, Outcome.CANCELLED, _CANCELLED))
            else:
                self._actions.append(Skip(job.id, None, self._why_not(job)))
        elif job.uses is not None:
            self._fail(job, f"job {job.id!r} calls a reusable workflow, which is not supported yet")
        elif node.legs is None:
            try:
                self._actions.append(Expand(job.id, expand_job(self._workflow, job, self._job_contexts(job))))
            except ExpressionError as wrong:
                self._fail(job, f"job {job.id!r}: {wrong}")
        else:
            self._start(job, node.legs)

    def _going(self, job: Job, legs: tuple[LegState, ...]) -> None:
        """At least one leg was started or ended: let the others follow, or stop them."""
        if self._cancelled and not self._survives(job):
            self._stop(job, legs, _CANCELLED)
        elif (failed := self._failed_fast(job, legs)) is not None:
            self._stop(job, legs, f"leg {failed.name!r} failed and fail-fast is on")
        else:
            self._start(job, legs)

    def _start(self, job: Job, legs: tuple[LegState, ...]) -> None:
        try:
            limit = self._max_parallel(job)
        except ExpressionError as wrong:
            self._fail(job, f"`max-parallel` of job {job.id!r}: {wrong}")
            return
        busy = sum(leg.phase in (Phase.QUEUED, Phase.RUNNING) for leg in legs)
        for leg in legs:
            if leg.phase is Phase.WAITING and (limit is None or busy < limit):
                busy += 1
                self._actions.append(Start(job.id, leg.index))

    def _stop(self, job: Job, legs: tuple[LegState, ...], reason: str) -> None:
        for leg in legs:
            if leg.phase is Phase.WAITING:
                self._actions.append(Fail(job.id, leg.index, Outcome.CANCELLED, reason))
            elif leg.phase is not Phase.DONE:
                self._actions.append(Cancel(job.id, leg.index, reason))

    def _fail(self, job: Job, reason: str) -> None:
        self._actions.append(Fail(job.id, None, Outcome.STARTUP_FAILURE, reason))

    def _failed_fast(self, job: Job, legs: tuple[LegState, ...]) -> LegState | None:
        """The leg that failed, where that stops the others."""
        failed = next(
            (leg for leg in legs if leg.phase is Phase.DONE and _leg_result(leg) == "failure"), None
        )
        if failed is None or len(legs) == 1 or job.strategy is None:
            return None
        try:
            on = boolean(job.strategy.fail_fast, self._job_contexts(job), "fail-fast", default=True)
        except ExpressionError:
            on = True  # the legs are running already; stopping them is what GitHub does by default
        return failed if on else None

    def _max_parallel(self, job: Job) -> float | None:
        return max_parallel(job, self._job_contexts(job))

    def _survives(self, job: Job) -> bool:
        """Whether the job's `if` still holds now that the run is cancelled (`always()`, `cancelled()`)."""
        try:
            return self._holds(job)
        except ExpressionError:
            return False

    def _holds(self, job: Job) -> bool:
        return condition(job.condition, self._job_contexts(job), functions=self._functions(job))

    def _job_contexts(self, job: Job) -> dict[str, Any]:
        return {**self._contexts, "needs": needs_context(self._workflow, self._nodes, job.id)}

    def _functions(self, job: Job) -> dict[str, Any]:
        """Status functions at job level: they look at all ancestors, or at the jobs that are named."""

        def results(names: tuple[Any, ...]) -> list[str]:
            if names:
                folded = {to_text(name).lower() for name in names}
                return [
                    node_result(self._nodes.get(key)) for key in self._workflow.jobs if key.lower() in folded
                ]
            return [node_result(self._nodes.get(key)) for key in self._ancestors(job)]

        return {
            "always": lambda: True,
            "cancelled": lambda: self._cancelled,
            "success": lambda *names: (
                not self._cancelled and all(each == "success" for each in results(names))
            ),
            "failure": lambda *names: not self._cancelled and "failure" in results(names),
        }

    def _ancestors(self, job: Job) -> list[str]:
        seen: dict[str, None] = {}
        waiting = list(job.needs)
        while waiting:
            key = waiting.pop()
            if key not in seen:
                seen[key] = None
                waiting.extend(self._workflow.jobs[key].needs)
        return [key for key in self._workflow.jobs if key in seen]

    def _why_not(self, job: Job) -> str:
        bad = [
            f"{key!r}, which {_PAST[result]}"
            for key in self._ancestors(job)
            if (result := node_result(self._nodes.get(key))) not in ("success", "")
        ]
        written = to_text(job.condition).strip()
        if bad and not written:
            return f"it needs {'; '.join(bad[:10])}"
        because = f" (it needs {'; '.join(bad[:10])})" if bad else ""
        return f"its `if` is false: {written[:200]}{because}"
