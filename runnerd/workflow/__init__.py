"""The GitHub Actions language, a pure library: read files, match events, plan jobs, evaluate expressions.

Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runnerd.workflow.expressions import condition, evaluate, interpolate, value_of
    from runnerd.workflow.matrix import expand_matrix
    from runnerd.workflow.model import (
        ExpressionError,
        Job,
        Leg,
        Limits,
        Match,
        Problem,
        Step,
        Workflow,
        WorkflowErrors,
    )
    from runnerd.workflow.patterns import match_patterns
    from runnerd.workflow.reader import load, load_cached
    from runnerd.workflow.triggers import matches

_HOMES = {
    "condition": "expressions",
    "evaluate": "expressions",
    "expand_matrix": "matrix",
    "ExpressionError": "model",
    "interpolate": "expressions",
    "Job": "model",
    "Leg": "model",
    "Limits": "model",
    "load": "reader",
    "load_cached": "reader",
    "Match": "model",
    "match_patterns": "patterns",
    "matches": "triggers",
    "Problem": "model",
    "Step": "model",
    "value_of": "expressions",
    "Workflow": "model",
    "WorkflowErrors": "model",
}

__all__ = [
    "ExpressionError",
    "Job",
    "Leg",
    "Limits",
    "Match",
    "Problem",
    "Step",
    "Workflow",
    "WorkflowErrors",
    "condition",
    "evaluate",
    "expand_matrix",
    "interpolate",
    "load",
    "load_cached",
    "match_patterns",
    "matches",
    "value_of",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
