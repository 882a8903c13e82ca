"""Why each job of a run ran, was skipped or waits, from the workflow and how its jobs stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerd.workflow.expressions.trace import Operand, trace
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.graph import NodeState, condition_scope, node_result
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
    return tuple(_job(workflow, nodes, contexts, key, cancelled) for key in workflow.jobs)


def _job(
    workflow: Workflow,
    nodes: Mapping[str, NodeState],
    contexts: Mapping[str, Any],
    key: str,
    cancelled: bool,
) -> Explanation:
    job = workflow.jobs[key]
    needs = {need: node_result(nodes.get(need)) for need in job.needs}
    condition = to_text(job.condition).strip()
    found = Explanation(key=key, needs=needs, condition=condition)
    if waiting := [need for need, result in needs.items() if not result]:
        return msgspec.structs.replace(found, reason=f"it waits for {', '.join(waiting)}")
    seen, functions = condition_scope(workflow, nodes, contexts, key, cancelled=cancelled)
    try:
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
