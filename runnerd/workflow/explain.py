"""Why each job of a run ran, was skipped or waits, from the workflow and how its jobs stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from runnerd.workflow.calls import Scope
from runnerd.workflow.expressions.trace import Operand, trace
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.graph import NodeState, condition_scope, node_result, with_calls
from runnerd.workflow.model import ExpressionError, Workflow


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One job: what it waits for or how what it needs ended, and its `if` with the value of each operand."""

    key: str
    needs: dict[str, str] = msgspec.field(default_factory=dict)
    """The jobs it needs -> how they ended; empty where one has not."""
    condition: str = ""
    """Its `if` as written; empty means `success()`."""
    implied: str | None = None
    """What the `success() &&` came to that is implied where the `if` calls no status function."""
    operands: Operand | None = None
    """The `if` evaluated; None while it waits for what it needs, and where there is none."""
    reason: str = ""


def explain(
    workflow: Workflow, nodes: Mapping[str, NodeState], contexts: Mapping[str, Any], *, cancelled: bool
) -> tuple[Explanation, ...]:
    """Each job in the order of the file, as `graph.decide` sees it. Evaluates nothing that it would not."""
    scope = Scope(workflow=workflow, contexts=contexts)
    return tuple(_jobs(scope, with_calls(nodes), cancelled))


def _jobs(scope: Scope, nodes: Mapping[str, NodeState], cancelled: bool) -> Iterator[Explanation]:
    """The jobs of a workflow, each that called another followed by what it called."""
    for id, job in scope.workflow.jobs.items():
        yield _job(scope, nodes, id, cancelled)
        node = nodes.get(scope.prefix + id)
        for call in node.calls if node is not None else ():
            yield from _jobs(scope.enter(job, call), nodes, cancelled)


def _job(scope: Scope, nodes: Mapping[str, NodeState], id: str, cancelled: bool) -> Explanation:
    job = scope.workflow.jobs[id]
    needs = {need: node_result(nodes.get(scope.prefix + need)) for need in job.needs}
    condition = to_text(job.condition).strip()
    found = Explanation(key=scope.prefix + id, needs=needs, condition=condition)
    if waiting := [need for need, result in needs.items() if not result]:
        return msgspec.structs.replace(found, reason=f"it waits for {', '.join(waiting)}")
    try:
        seen, functions = condition_scope(scope, nodes, id, cancelled=cancelled)
        operands = trace(job.condition, seen, functions=functions)
    except ExpressionError as wrong:
        return msgspec.structs.replace(found, reason=f"its `if` cannot be evaluated: {wrong}")
    implied = None if calls_status(operands) else to_text(functions["success"]())
    return msgspec.structs.replace(found, operands=operands, implied=implied)


def calls_status(operand: Operand | None) -> bool:
    """Whether a status function appears in a traced condition."""
    if operand is None:
        return False
    name = operand.text.partition("(")[0].lower()
    return name in ("success", "failure", "always", "cancelled") or any(map(calls_status, operand.operands))
