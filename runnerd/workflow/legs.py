"""The legs of one job, with what is evaluated for each: name, labels, `continue-on-error`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from runnerd.workflow.expressions import interpolate, value_of
from runnerd.workflow.expressions.template import templated
from runnerd.workflow.expressions.values import is_primitive, to_number, to_text, truthy
from runnerd.workflow.matrix import expand_matrix, leg_name
from runnerd.workflow.model import ExpressionError, Job, Leg, Scalar, Workflow


class ExpandedLeg(msgspec.Struct, frozen=True, kw_only=True):
    """One leg of an expanded job with what is evaluated per leg."""

    leg: Leg
    labels: tuple[str, ...]
    continue_on_error: bool = False


def expand_job(workflow: Workflow, job: Job, contexts: Mapping[str, Any]) -> tuple[ExpandedLeg, ...]:
    """The legs of a job with labels, names and `continue-on-error`, from contexts that include its `needs`.

    Raises `ExpressionError` where a value cannot be used.
    """
    name = job.id if job.name is None or job.name == "" else job.name
    literal = not (isinstance(name, str) and "${{" in name)
    legs = expand_matrix(job.strategy, contexts, job_name=to_text(name) if literal else job.id)
    out = []
    for leg in legs:
        inner = {
            **contexts,
            "matrix": leg.matrix,
            "strategy": strategy_context(job, contexts, leg.index, leg.total),
        }
        if not literal:
            leg = msgspec.structs.replace(leg, name=leg_name(interpolate(name, inner), ()) or job.id)
        out.append(
            ExpandedLeg(
                leg=leg,
                labels=labels_of(job.runs_on, inner),
                continue_on_error=boolean(job.continue_on_error, inner, "continue-on-error", default=False),
            )
        )
    return tuple(out)


def strategy_context(job: Job, contexts: Mapping[str, Any], index: int, total: int) -> dict[str, Any]:
    """The `strategy` context of one leg. Raises `ExpressionError`."""
    fast = boolean(job.strategy.fail_fast, contexts, "fail-fast", default=True) if job.strategy else True
    parallel = max_parallel(job, contexts)
    return {
        "fail-fast": fast,
        "job-index": index,
        "job-total": total,
        "max-parallel": total if parallel is None else int(parallel),
    }


def plan_legs(workflow: Workflow, contexts: Mapping[str, Any]) -> dict[str, tuple[ExpandedLeg, ...] | None]:
    """The legs of each job as far as they are known before anything ran.

    None for a job that looks at `needs`, that calls a workflow, or whose values cannot be used; the scheduler
    says so in its time.
    """
    planned: dict[str, tuple[ExpandedLeg, ...] | None] = {}
    for key, job in workflow.jobs.items():
        planned[key] = None
        if job.uses is None and not _looks_at_needs(
            [job.name, job.runs_on, job.continue_on_error, *_strategy_values(job)]
        ):
            with contextlib.suppress(ExpressionError):
                planned[key] = expand_job(workflow, job, contexts)
    return planned


def _strategy_values(job: Job) -> list[Any]:
    strategy = job.strategy
    return [] if strategy is None else [strategy.matrix, strategy.fail_fast, strategy.max_parallel]


def _looks_at_needs(value: Any) -> bool:
    if isinstance(value, str):
        return "${{" in value and any("needs" in each.names for each in templated(value).expressions)
    if isinstance(value, Mapping):
        return any(map(_looks_at_needs, value.values()))
    return isinstance(value, list | tuple) and any(map(_looks_at_needs, value))


def labels_of(runs_on: Any, contexts: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of `runs-on`: one, a list, or those of `{group, labels}` with the group as `group:NAME`.

    Raises `ExpressionError` where they are empty or no text.
    """
    value = value_of(runs_on, contexts)
    group = None
    if isinstance(value, Mapping):
        group, value = value.get("group"), value.get("labels", ())
    labels = list(value) if isinstance(value, list | tuple) else [value]
    if not all(is_primitive(label) for label in labels):
        raise ExpressionError("runs-on must give labels, and a label is a single value")
    found = tuple(dict.fromkeys(text for label in labels if (text := to_text(label).strip())))
    if group is not None and to_text(group):
        found = (f"group:{to_text(group)}", *found)
    if not found:
        raise ExpressionError(f"runs-on gives no label: {to_text(runs_on)[:200]}")
    return found


def max_parallel(job: Job, contexts: Mapping[str, Any]) -> float | None:
    """How many legs may be under way at once; None for all. Raises `ExpressionError`."""
    if job.strategy is None or job.strategy.max_parallel is None:
        return None
    value = value_of(job.strategy.max_parallel, contexts)
    if value is None or value == "":
        return None
    limit = to_number(value)
    if not 1 <= limit < math.inf:
        raise ExpressionError(f"max-parallel must be a number from 1, not {to_text(value)[:100]!r}")
    return limit


def boolean(scalar: Scalar, contexts: Mapping[str, Any], what: str, *, default: bool) -> bool:
    """A key that is true or false when evaluated; raises `ExpressionError` for anything else."""
    value = value_of(scalar, contexts)
    if value is None or value == "":
        return default
    if isinstance(value, str):
        if value in ("true", "false"):
            return value == "true"
        raise ExpressionError(f"{what} must be true or false, not {value[:100]!r}")
    return truthy(value)
