"""The job graph as a pure scheduler: given how every job stands, what to do next.

`decide` never changes anything; the same state gives the same actions, after a crash too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from runnerd.model import Outcome, Phase
from runnerd.workflow.calls import Scope, leg_contexts, make_calls
from runnerd.workflow.concurrency import Standing, key_of
from runnerd.workflow.expressions import condition, value_of
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.legs import ExpandedLeg, boolean, expand_job, max_parallel, strategy_context
from runnerd.workflow.model import Call, Concurrency, ExpressionError, Job, Limits, Workflow
from runnerd.workflow.nodes import (
    Action,
    Cancel,
    Enter,
    Expand,
    Fail,
    Finish,
    Hold,
    Holds,
    Join,
    Leave,
    LegState,
    NodeState,
    Skip,
    Start,
    ended,
    leg_result,
    needs_context,
    node_result,
    run_outcome,
    with_calls,
)

__all__ = [
    "Action",
    "Cancel",
    "Enter",
    "Expand",
    "ExpandedLeg",
    "Fail",
    "Finish",
    "Hold",
    "Join",
    "Leave",
    "LegState",
    "NodeState",
    "Skip",
    "Start",
    "condition_scope",
    "decide",
    "ended",
    "expand_job",
    "needs_context",
    "node_result",
    "run_outcome",
    "strategy_context",
    "with_calls",
]


_PAST = {"failure": "failed", "cancelled": "was cancelled", "skipped": "was skipped"}
_CANCELLED = "the run was cancelled"
_JOBS = Limits().jobs
_RUN = ("", 0)
_UNKNOWN = LegState(index=-1)
"""Stands for a job without legs."""


def decide(
    workflow: Workflow,
    nodes: Mapping[str, NodeState],
    contexts: Mapping[str, Any],
    *,
    cancelled: bool,
    holds: Holds | None = None,
) -> tuple[Action, ...]:
    """What to do now, in the order of the file; nothing means wait.

    `contexts` has `github`, `vars`, `inputs` and the like; `needs` is added here. `holds` says how what came
    to a concurrency group stands there. A leg that is QUEUED or RUNNING is never started again; a job that
    the caller does not know yet counts as not expanded.
    """
    nodes, holds = with_calls(nodes), holds or {}
    actions: list[Action] = list(_leaves(nodes, holds))
    called_off = _CANCELLED if cancelled else ""
    _Decision(Scope(workflow=workflow, contexts=contexts), nodes, holds, called_off, actions).decide()
    if all(ended(nodes.get(key)) for key in workflow.jobs):
        outcome = run_outcome({key: nodes[key] for key in workflow.jobs})
        why = called_off or (holds[_RUN].reason if _RUN in holds else "")
        actions.append(Finish(outcome, why if outcome is Outcome.CANCELLED else ""))
    return tuple(actions)


def _leaves(nodes: Mapping[str, NodeState], holds: Holds) -> Iterator[Leave]:
    """Who came to a group and has ended since; the run as a whole leaves with its end."""
    for (key, leg), hold in holds.items():
        if hold.standing is not Standing.OVER and key:
            node = nodes.get(key)
            if node is not None and not node.calls:
                over = any(each.index == leg and each.phase is Phase.DONE for each in node.legs or ())
            else:
                legs = _legs_below(nodes, key if key.endswith("/") else f"{key}.{leg}/")
                over = all(each.phase is Phase.DONE for each in legs)
            if over:
                yield Leave(key, leg)


def condition_scope(
    scope: Scope, nodes: Mapping[str, NodeState], id: str, *, cancelled: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contexts and functions that the `if` of a job sees, for who explains what it came to.

    `nodes` are those of `with_calls`, `id` is the job's in its scope.
    """
    decision, job = _Decision(scope, nodes, {}, _CANCELLED if cancelled else "", []), scope.workflow.jobs[id]
    return decision._job_contexts(job), decision._functions(job)


def _legs_below(nodes: Mapping[str, NodeState], prefix: str) -> tuple[LegState, ...]:
    """The legs of every job whose key begins so; one that waits for each job without."""
    return tuple(
        leg
        for key, node in nodes.items()
        if key.startswith(prefix) and not node.calls
        for leg in (node.legs if node.legs is not None else (LegState(index=0),))
    )


class _Decision:
    """What to do in one scope, and in those below it.

    `called_off` says why the scope is cancelled, and is empty where it is not; `held` are the groups that
    the run and the callers are in.
    """

    def __init__(
        self,
        scope: Scope,
        nodes: Mapping[str, NodeState],
        holds: Holds,
        called_off: str,
        actions: list[Action],
        held: frozenset[str] = frozenset(),
    ) -> None:
        self._scope, self._nodes, self._members, self._actions = scope, nodes, holds, actions
        self._called_off, self._held = called_off, held
        self._workflow, self._contexts = scope.workflow, scope.contexts

    def _key(self, id: str) -> str:
        return self._scope.prefix + id

    def _node(self, id: str) -> NodeState | None:
        return self._nodes.get(self._key(id))

    def decide(self) -> None:
        if not self._may_go_on():
            return
        for key, job in self._workflow.jobs.items():
            node = self._node(key) or NodeState(key=self._key(key))
            if ended(node):
                continue
            legs = node.legs or ()
            if node.calls:
                self._inside(job, node)
            elif any(leg.phase is not Phase.WAITING for leg in legs):
                self._going(job, legs)
            elif all(ended(self._node(need)) for need in job.needs):
                self._may_start(job, node)

    def _may_go_on(self) -> bool:
        """Whether the workflow's own concurrency group lets it go on; one that was called off is ended."""
        at = (self._scope.prefix, 0)
        try:
            standing = self._standing(self._workflow.concurrency, self._contexts, at)
        except ExpressionError as wrong:
            self._stop_all(Outcome.STARTUP_FAILURE, f"`concurrency` of the workflow: {wrong}")
            return False
        hold = self._members.get(at)
        if hold is not None and standing in (Standing.DISPLACED, Standing.STOPPING, Standing.WAITING):
            if standing is Standing.STOPPING:
                self._called_off = self._called_off or hold.reason
            elif standing is Standing.DISPLACED or self._called_off:
                self._stop_all(Outcome.CANCELLED, hold.reason if not self._called_off else self._called_off)
        if hold is not None:
            self._held |= {key_of(hold.group)}
        return standing not in (Standing.WAITING, Standing.DISPLACED)

    def _stop_all(self, outcome: Outcome, reason: str) -> None:
        """Begin nothing more of this scope, and stop what goes on."""
        for id in self._workflow.jobs:
            node = self._node(id)
            if node is None or not node.calls:
                legs = (node.legs if node is not None else None) or (_UNKNOWN,)
                self._stop(self._key(id), legs, reason, outcome)
            else:
                self._stop_below(f"{node.key}.", reason, outcome)

    def _stop_below(self, prefix: str, reason: str, outcome: Outcome = Outcome.CANCELLED) -> None:
        for key, node in self._nodes.items():
            if key.startswith(prefix) and not node.calls:
                self._stop(key, node.legs or (_UNKNOWN,), reason, outcome)

    def _standing(
        self, said: Concurrency | None, contexts: Mapping[str, Any], at: tuple[str, int]
    ) -> Standing:
        """How somebody stands in its group, coming to it if need be; who is in none holds its own.

        A group that the run or a caller is in already would wait for itself, and is passed over.
        """
        if at in self._members:
            return self._members[at].standing
        if said is None:
            return Standing.HOLDING
        group = to_text(value_of(said.group, contexts))
        if not group.strip() or key_of(group) in self._held:
            return Standing.HOLDING
        cancels = boolean(said.cancel_in_progress, contexts, "cancel-in-progress", default=False)
        if self._called_off:
            return Standing.HOLDING  # what still is to be done does not wait for a turn any more
        self._actions.append(Join(*at, group, cancels, said.queue))
        return Standing.WAITING

    def _inside(self, job: Job, node: NodeState) -> None:
        """The called workflows go on, so many at once as `max-parallel` says; a failed one may stop all."""
        legs = [(call, _legs_below(self._nodes, f"{call.key}.{call.leg}/")) for call in node.calls]
        results = [node_result(NodeState(key=node.key, legs=each)) for _, each in legs]
        failed = [
            call
            for (call, each), result in zip(legs, results, strict=True)
            if result == "failure" and not all(leg.carried for leg in each)
        ]
        if failed and len(legs) > 1 and self._is_fail_fast(job):
            self._stop_below(f"{node.key}.", f"{failed[0].name!r} failed and fail-fast is on")
            return
        try:
            limit = self._max_parallel(job)
        except ExpressionError:
            limit = 1  # the calls were made already, so nothing can be refused any more
        begun = [any(leg.phase is not Phase.WAITING for leg in each) for _, each in legs]
        busy = sum(each and not result for each, result in zip(begun, results, strict=True))
        for (call, _), active, result in zip(legs, begun, results, strict=True):
            if result or (not active and limit is not None and busy >= limit and not self._called_off):
                continue
            if self._enter_call(job, call):
                busy += not active

    def _enter_call(self, job: Job, call: Call) -> bool:
        """Decide within one call, if the calling job's concurrency group lets it."""
        at, called_off = (call.key, call.leg), self._called_off
        prefix = f"{call.key}.{call.leg}/"
        try:
            contexts = self._job_contexts(job)
            contexts |= leg_contexts(job, contexts, call.leg, call.legs, call.matrix)
            standing = self._standing(job.concurrency, contexts, at)
        except ExpressionError as wrong:
            self._stop_below(prefix, f"`concurrency` of job {job.id!r}: {wrong}", Outcome.STARTUP_FAILURE)
            return False
        hold = self._members.get(at)
        if standing is Standing.DISPLACED or (standing is Standing.WAITING and called_off):
            self._stop_below(prefix, called_off or (hold.reason if hold is not None else ""))
            return False
        if standing is Standing.WAITING:
            return False
        if standing is Standing.STOPPING and hold is not None:
            called_off = called_off or hold.reason
        held = self._held | ({key_of(hold.group)} if hold is not None else set())
        inner = self._scope.enter(job, call)
        _Decision(inner, self._nodes, self._members, called_off, self._actions, held).decide()
        return True

    def _may_start(self, job: Job, node: NodeState) -> None:
        """Every need ended and no leg left WAITING: the job's `if` decides, once."""
        try:
            holds = self._if_holds(job)
        except ExpressionError as wrong:
            self._fail(job, f"`if` of job {job.id!r}: {wrong}")
            return
        if not holds:
            if self._called_off:
                self._actions.append(Fail(node.key, None, Outcome.CANCELLED, self._called_off))
            else:
                self._actions.append(Skip(node.key, None, self._why_not(job)))
        elif node.legs is None:
            try:
                self._actions.append(self._enter(job) if job.uses is not None else self._expand(job))
            except ExpressionError as wrong:
                self._fail(job, f"job {job.id!r}: {wrong}")
        else:
            self._start(job, node.legs)

    def _expand(self, job: Job) -> Expand:
        legs = expand_job(self._workflow, job, self._job_contexts(job))
        named = tuple(
            msgspec.structs.replace(
                each, leg=msgspec.structs.replace(each.leg, name=self._scope.named(each.leg.name))
            )
            for each in legs
        )
        return Expand(self._key(job.id), named if self._scope.call is not None else legs)

    def _enter(self, job: Job) -> Enter:
        calls = make_calls(self._scope, job, self._job_contexts(job))
        scopes = [self._scope.enter(job, call) for call in calls]
        jobs = tuple((inner.prefix + id, inner.named(id)) for inner in scopes for id in inner.workflow.jobs)
        if len(self._nodes) + len(jobs) > _JOBS:
            raise ExpressionError(f"its calls would bring the run to more than {_JOBS} jobs")
        return Enter(self._key(job.id), calls, jobs)

    def _going(self, job: Job, legs: tuple[LegState, ...]) -> None:
        """At least one leg was started or ended: let the others follow, or stop them."""
        if self._called_off and not self._survives(job):
            self._stop(self._key(job.id), legs, self._called_off)
        elif (failed := self._failed_fast(job, legs)) is not None:
            self._stop(self._key(job.id), legs, f"leg {failed.name!r} failed and fail-fast is on")
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
            hold = self._members.get((self._key(job.id), leg.index))
            if hold is not None and hold.standing in (Standing.STOPPING, Standing.DISPLACED):
                self._stop(self._key(job.id), (leg,), hold.reason)
            elif leg.phase is Phase.WAITING and (limit is None or busy < limit) and self._turn(job, leg):
                busy += 1
                self._actions.append(Start(self._key(job.id), leg.index))

    def _turn(self, job: Job, leg: LegState) -> bool:
        """Whether the leg's concurrency group, if it has one, lets it start now."""
        if job.concurrency is None:
            return True
        key = self._key(job.id)
        try:
            contexts = self._job_contexts(job)
            contexts |= leg_contexts(job, contexts, leg.index, leg.total, leg.matrix)
            return self._standing(job.concurrency, contexts, (key, leg.index)) is Standing.HOLDING
        except ExpressionError as wrong:
            reason = f"`concurrency` of job {job.id!r}: {wrong}"
            self._actions.append(Fail(key, leg.index, Outcome.STARTUP_FAILURE, reason))
            return False

    def _stop(
        self, key: str, legs: tuple[LegState, ...], reason: str, outcome: Outcome = Outcome.CANCELLED
    ) -> None:
        for leg in legs:
            if leg.phase is Phase.WAITING:
                self._actions.append(Fail(key, leg.index if leg.index >= 0 else None, outcome, reason))
            elif leg.phase is not Phase.DONE:
                self._actions.append(Cancel(key, leg.index, reason))

    def _fail(self, job: Job, reason: str) -> None:
        self._actions.append(Fail(self._key(job.id), None, Outcome.STARTUP_FAILURE, reason))

    def _failed_fast(self, job: Job, legs: tuple[LegState, ...]) -> LegState | None:
        """The leg that failed, where that stops the others."""
        ended_now = (leg for leg in legs if leg.phase is Phase.DONE and not leg.carried)
        failed = next((leg for leg in ended_now if leg_result(leg) == "failure"), None)
        return failed if failed is not None and len(legs) > 1 and self._is_fail_fast(job) else None

    def _is_fail_fast(self, job: Job) -> bool:
        if job.strategy is None:
            return False
        try:
            return boolean(job.strategy.fail_fast, self._job_contexts(job), "fail-fast", default=True)
        except ExpressionError:
            return True  # the legs are running already; stopping them is what GitHub does by default

    def _max_parallel(self, job: Job) -> float | None:
        return max_parallel(job, self._job_contexts(job))

    def _survives(self, job: Job) -> bool:
        """Whether the job's `if` still holds now that the run is cancelled (`always()`, `cancelled()`)."""
        try:
            return self._if_holds(job)
        except ExpressionError:
            return False

    def _if_holds(self, job: Job) -> bool:
        return condition(job.condition, self._job_contexts(job), functions=self._functions(job))

    def _job_contexts(self, job: Job) -> dict[str, Any]:
        return {**self._contexts, "needs": needs_context(self._scope, self._nodes, job.id)}

    def _functions(self, job: Job) -> dict[str, Any]:
        """Status functions at job level: they look at all ancestors, or at the jobs that are named."""

        def results(names: tuple[Any, ...]) -> list[str]:
            if names:
                folded = {to_text(name).lower() for name in names}
                return [node_result(self._node(key)) for key in self._workflow.jobs if key.lower() in folded]
            return [node_result(self._node(key)) for key in self._ancestors(job)]

        return {
            "always": lambda: True,
            "cancelled": lambda: bool(self._called_off),
            "success": lambda *names: (
                not self._called_off and all(each == "success" for each in results(names))
            ),
            "failure": lambda *names: not self._called_off and "failure" in results(names),
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
            if (result := node_result(self._node(key))) not in ("success", "")
        ]
        written = to_text(job.condition).strip()
        if bad and not written:
            return f"it needs {'; '.join(bad[:10])}"
        because = f" (it needs {'; '.join(bad[:10])})" if bad else ""
        return f"its `if` is false: {written[:200]}{because}"
