"""Evaluating expressions, texts and conditions against contexts. Plain data in, plain data out.

Every one of them raises `ExpressionError` and nothing else, however hostile text and contexts are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.workflow.expressions.compiler import Function, Scope, compiled
from runnerd.workflow.expressions.template import bare, templated
from runnerd.workflow.expressions.values import to_text, truthy
from runnerd.workflow.model import ExpressionError, Limits, Scalar

_LIMITS = Limits()


def _scope(contexts: Mapping[str, Any], functions: Mapping[str, Function] | None, limits: Limits) -> Scope:
    folded = {name.lower(): function for name, function in functions.items()} if functions else {}
    return Scope(contexts, folded, limits.memory)


def evaluate(
    expression: str,
    contexts: Mapping[str, Any],
    *,
    functions: Mapping[str, Function] | None = None,
    limits: Limits = _LIMITS,
) -> Any:
    """The value of one expression, with or without `${{ }}` around it.

    `functions` supplies `hashFiles` and the status functions by name, called with the evaluated arguments.
    A context of GitHub's that is not supplied is null, and so is an empty expression.
    Raises `ExpressionError` with the offset of the fault.
    """
    text = bare(expression)
    if not text.strip():
        return None
    return compiled(text, limits.expression, limits.expression_depth).run(_scope(contexts, functions, limits))


def interpolate(
    text: Scalar,
    contexts: Mapping[str, Any],
    *,
    functions: Mapping[str, Function] | None = None,
    limits: Limits = _LIMITS,
) -> str:
    """The text with each `${{ }}` replaced by its value as text; other scalars as GitHub prints them."""
    if not isinstance(text, str):
        return to_text(text)
    if "${{" not in text:
        return text
    return templated(text, limits.expression, limits.expression_depth).text_of(
        _scope(contexts, functions, limits)
    )


def value_of(
    scalar: Any,
    contexts: Mapping[str, Any],
    *,
    functions: Mapping[str, Function] | None = None,
    limits: Limits = _LIMITS,
) -> Any:
    """Like `interpolate`, but a text that is one expression as a whole keeps the type of its value.

    Sequences and mappings are walked; everything else comes back as it is.
    """
    try:
        return _value_of(scalar, contexts, functions, limits)
    except RecursionError:
        raise ExpressionError("the value is nested too deeply") from None


def _value_of(
    scalar: Any, contexts: Mapping[str, Any], functions: Mapping[str, Function] | None, limits: Limits
) -> Any:
    if isinstance(scalar, str):
        if "${{" not in scalar:
            return scalar
        found = templated(scalar, limits.expression, limits.expression_depth)
        return found.value_of(_scope(contexts, functions, limits))
    if isinstance(scalar, Mapping):
        return {
            interpolate(key, contexts, functions=functions, limits=limits): _value_of(
                value, contexts, functions, limits
            )
            for key, value in scalar.items()
        }
    if isinstance(scalar, list | tuple):
        return [_value_of(each, contexts, functions, limits) for each in scalar]
    return scalar


def condition(
    text: Scalar,
    contexts: Mapping[str, Any],
    *,
    functions: Mapping[str, Function] | None = None,
    limits: Limits = _LIMITS,
) -> bool:
    """Whether an `if` holds, with `success() &&` implied unless it calls a status function itself.

    None and the empty text mean `success()`. A text mixed with `${{ }}` is a non-empty string, so it holds.
    """
    scope = _scope(contexts, functions, limits)
    written = to_text(text).strip()
    if not written:
        return _succeeded(scope)
    if "${{" in written:
        mixed = templated(written, limits.expression, limits.expression_depth)
        status = any(each.status for each in mixed.expressions)
        return (status or _succeeded(scope)) and truthy(mixed.value_of(scope))
    code = compiled(written, limits.expression, limits.expression_depth)
    if code.status:
        return truthy(code.run(scope))
    return _succeeded(scope) and truthy(code.run(scope))


def _succeeded(scope: Scope) -> bool:
    success = scope.functions.get("success")
    if success is None:
        raise ExpressionError("The function 'success' is not available here")
    return truthy(success())
