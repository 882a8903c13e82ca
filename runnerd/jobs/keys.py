"""What the keys of a step or job say once evaluated: a name, an environment, a number of minutes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.jobs.evaluation import Functions
from runnerd.workflow import ExpressionError, interpolate, value_of
from runnerd.workflow.model import Scalar, Step

NAME = 200
"""Characters of a step's name at most."""


class StepFailed(Exception):
    """The step cannot go on; the sentence is shown."""


def default_name(step: Step, script: str | None = None) -> str:
    """Return what a step without a name is called: `Run`, and its action or its script's first line.

    Steps that wait or cancel are called by what they do.

    `script` is the evaluated text, where it is known.
    """
    if step.uses is not None:
        return f"Run {step.uses}"[:NAME]
    if step.run is None:
        return "Wait for all" if step.wait_all else "Cancel" if step.cancel is not None else "Wait"
    lines = (script or step.run or "").strip().splitlines()
    return f"Run {lines[0].strip()}"[:NAME] if lines else "Run"


def environment_of(
    written: Mapping[str, Scalar] | str, contexts: Mapping[str, Any], functions: Functions
) -> dict[str, str]:
    """Evaluate an `env`, which is a map or one expression that gives a map; raises `ExpressionError`."""
    value = value_of(written, contexts, functions=functions)
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping):
        raise ExpressionError("`env` must be a map of names to values")
    return {str(name): _as_text(each) for name, each in value.items()}


def minutes_of(value: Any, key: str) -> float | None:
    """Read a number of minutes; None when nothing is written. Raises `StepFailed`."""
    if value is None or value == "":
        return None
    try:
        minutes = float(value)
    except (TypeError, ValueError) as error:
        raise StepFailed(f"`{key}` is not a number: {str(value)[:80]!r}") from error
    if not 0 < minutes < 1e6:
        raise StepFailed(f"`{key}` must be more than 0, not {minutes:g}")
    return minutes


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value  # evaluated once already; what came out is never evaluated again
    if value is None or isinstance(value, int | float | bool):
        return interpolate(value, {})
    raise ExpressionError("a value of `env` must be text, a number or a boolean")
