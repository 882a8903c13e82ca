"""Which secrets a part of a workflow can name, found by reading its expressions and running none.

Only what is named is handed to a job: what never enters a machine cannot leave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from runnerd.workflow.calls import Scope
from runnerd.workflow.expressions.nodes import Call, Compare, Index, Literal, Logical, Named, Node, Not
from runnerd.workflow.expressions.parser import parse
from runnerd.workflow.expressions.template import templated
from runnerd.workflow.model import ExpressionError, Job, Workflow

_OPEN = "${{"
_WORD = "secrets"
_ELSEWHERE = frozenset({"called"})
"""Fields of a job that say what another one does."""


def named_secrets(workflow: Workflow, job: Job) -> frozenset[str] | None:
    """Return the secrets a job can name, in upper case; None where it may name any.

    It may name any where it uses the `secrets` context whole (`toJSON(secrets)`, `secrets.*`), by a name
    made as it runs (`secrets[matrix.key]`), by `secrets: inherit`, or in a text that cannot be read.
    """
    if job.secrets == "inherit":
        return None
    names: set[str] = set()
    for text, bare in _texts((workflow.env, job), False):
        found = _of_text(text, bare)
        if found is None:
            return None
        names |= found
    return frozenset(names)


def named_at_root(scope: Scope, job: Job) -> frozenset[str] | None:
    """Return the run's own secrets that a job can name through the calls that lead to it; None for any."""
    names = named_secrets(scope.workflow, job)
    while scope.outer is not None and scope.job is not None:
        passed, scope = scope.job.secrets, scope.outer
        if passed == "inherit":
            continue
        values = passed.items() if isinstance(passed, Mapping) else ()
        names = _of_values(value for name, value in values if names is None or name.upper() in names)
        if names is None:
            return None
    return names


def _of_values(values: Iterable[Any]) -> frozenset[str] | None:
    names: set[str] = set()
    for value in values:
        found = _of_text(value, False) if isinstance(value, str) else set()
        if found is None:
            return None
        names |= found
    return frozenset(names)


def _texts(value: Any, bare: bool) -> Iterator[tuple[str, bool]]:
    """Every text within, and whether it is an expression without braces."""
    if isinstance(value, str):
        if _WORD in value.lower():
            yield value, bare
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            if field not in _ELSEWHERE:
                yield from _texts(getattr(value, field), field == "condition")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key, False)
            yield from _texts(inner, False)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _texts(inner, bare)


def _of_text(text: str, bare: bool) -> set[str] | None:
    if _OPEN not in text and not bare:
        return set()
    try:
        expressions = [part.text for part in templated(text).expressions] if _OPEN in text else [text]
        names: set[str] = set()
        for expression in expressions:
            found = _of_node(parse(expression))
            if found is None:
                return None
            names |= found
    except ExpressionError:
        return None
    return names


def _of_node(node: Node) -> set[str] | None:
    """The names below a node; None for the context as a whole. No deeper than an expression may be."""
    match node:
        case Named(name=name):
            return None if name.lower() == _WORD else set()
        case Index(target=Named(name=name), key=key) if name.lower() == _WORD:
            if isinstance(key, Literal) and isinstance(key.value, str):
                return {key.value.upper()}
            return None
        case Index(target=target, key=key):
            inner = [target, *([key] if key else [])]
        case Not(operand=operand):
            inner = [operand]
        case Compare(left=left, right=right):
            inner = [left, right]
        case Logical(operands=operands):
            inner = operands
        case Call(arguments=arguments):
            inner = arguments
        case _:
            inner = []
    names: set[str] = set()
    for each in inner:
        found = _of_node(each)
        if found is None:
            return None
        names |= found
    return names
