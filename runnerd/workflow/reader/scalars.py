"""Reading single values: text, numbers, booleans, conditions, words of a list, maps of text.

Every function here is a `Read`: it takes the source, a YAML value, its place and its scope, notes what is
wrong, and gives a value that later code can hold whether or not it was right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runnerd.workflow.expressions.compiler import compiled
from runnerd.workflow.expressions.template import templated
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.model import ExpressionError, Scalar
from runnerd.workflow.reader.scope import NOWHERE, Scope
from runnerd.workflow.reader.source import Read, Source
from runnerd.workflow.yaml import Map, Seq

_IDENTIFIER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,99}").fullmatch
_INSERT = re.compile(r"\$\{\{\s*insert\s*\}\}").fullmatch
INSERT = "${{ insert }}"
"""The key under which a map takes in the entries of another, given by an expression."""


def text(source: Source, value: Any, at: Any, scope: Scope) -> str:
    """Any scalar as text, as GitHub prints it; expressions are checked and kept."""
    if type(value) is str:
        if "${{" in value:
            source.expressions(value, at, scope)
        return value
    if type(value) is Map or type(value) is Seq:
        kind = "mapping" if type(value) is Map else "sequence"
        source.problem(at, f"A {kind} was not expected; a single value was")
        return ""
    return to_text(value)


def words(source: Source, value: Any, at: Any, scope: Scope) -> str:
    """Text that is not empty."""
    found = text(source, value, at, scope)
    if not found and type(value) is not Map and type(value) is not Seq:
        source.problem(at, "Unexpected value ''")
    return found


def free(source: Source, value: Any, at: Any, scope: Scope) -> str:
    """Prose, in which even `${{` is only text (`description`)."""
    return value if isinstance(value, str) else text(source, value, at, scope)


def number(source: Source, value: Any, at: Any, scope: Scope) -> Scalar:
    """A number, or one expression that gives it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return _typed(source, value, at, scope, "a number")


def boolean(source: Source, value: Any, at: Any, scope: Scope) -> Scalar:
    """true or false, or one expression that gives it."""
    if value is True or value is False:
        return value
    return _typed(source, value, at, scope, "true or false")


def _typed(source: Source, value: Any, at: Any, scope: Scope, what: str) -> Scalar:
    if type(value) is str and "${{" in value:
        if source.expressions(value, at, scope) and not single(source, value):
            source.problem(at, f"Unexpected text around an expression; {what} was expected")
        return value
    if type(value) is Map or type(value) is Seq:
        text(source, value, at, scope)
    else:
        source.problem(at, f"Unexpected value {to_text(value)[:100]!r}; {what} was expected")
    return None


def single(source: Source, value: str) -> bool:
    """Whether a text with well-formed expressions is one expression as a whole."""
    return templated(value, source.limits.expression, source.limits.expression_depth).single is not None


def condition(source: Source, value: Any, at: Any, scope: Scope) -> Scalar:
    """The text of an `if`: an expression with or without `${{ }}`."""
    written = value if isinstance(value, str) else text(source, value, at, scope)
    if "${{" in written:
        if source.expressions(written, at, scope) and not single(source, written.strip()):
            source.warn(
                at, "text around an expression makes this `if` always true; write one expression only"
            )
        return written
    if written.strip():
        try:
            code = compiled(written.strip(), source.limits.expression, source.limits.expression_depth)
        except ExpressionError as wrong:
            source.problem(at, str(wrong))
        else:
            source.names(code, at, scope)
    return written


def identifier(source: Source, value: Any, at: Any, scope: Scope) -> str:
    """An id of a job or a step."""
    found = words(source, value, at, NOWHERE)
    if found:
        check_identifier(source, found, at)
    return found


def check_identifier(source: Source, found: str, at: Any) -> bool:
    """Note an id that GitHub would not take."""
    if not _IDENTIFIER(found):
        source.problem(
            at,
            f"The id {found[:120]!r} is invalid: an id has at most 100 letters, digits, '_' and '-' "
            "and starts with a letter or '_'",
        )
        return False
    if found.startswith("__"):
        source.problem(at, f"The id {found!r} is invalid: ids that start with '__' are reserved")
        return False
    return True


def one_of(*valid: str) -> Read:
    """A reader of one word out of few."""

    def read(source: Source, value: Any, at: Any, scope: Scope) -> str:
        found = text(source, value, at, NOWHERE)
        if found not in valid and not isinstance(value, Map | Seq):
            source.unexpected(at, found, valid, "value")
        return found

    return read


def text_list(source: Source, value: Any, at: Any, scope: Scope) -> tuple[str, ...]:
    """A word, or a sequence of words."""
    if type(value) is Seq:
        return tuple(
            words(source, item, place, scope) for item, place in zip(value, value.items_at, strict=True)
        )
    return (words(source, value, at, scope),)


def word_sequence(source: Source, value: Any, at: Any, scope: Scope) -> tuple[str, ...]:
    """A sequence of words, and nothing shorter."""
    if source.sequence(value, at) is None:
        return ()
    return text_list(source, value, at, scope)


def text_map(source: Source, value: Any, at: Any, scope: Scope) -> Mapping[str, Scalar] | str:
    """A map of names to text (`env`, `with`), or one expression that gives it."""
    if type(value) is str and "${{" in value and scope.allowed:
        if source.expressions(value, at, scope) and not single(source, value):
            source.problem(at, "Unexpected text around an expression; a mapping was expected")
        return value
    if source.mapping(value, at) is None:
        return {}
    out: dict[str, Scalar] = {}
    values_at = value.values_at
    for key, each in value.items():
        name = INSERT if "${{" in key and _INSERT(key) else key
        if not name or ("${{" in name and name != INSERT):
            source.unexpected(value.keys_at[key], key, (), "name")
        else:
            out[name] = text(source, each, values_at[key], scope)
    return out


def scalar_map(source: Source, value: Any, at: Any, scope: Scope) -> Mapping[str, Scalar]:
    """A map of names to text, numbers and booleans, kept as they are (`with` of a call)."""
    found = text_map(source, value, at, scope)
    if isinstance(found, str):
        return {INSERT: found}
    return {
        key: value[key] if key in value and isinstance(value[key], bool | int | float) else each
        for key, each in found.items()
    }


def no_expression_map(source: Source, value: Any, at: Any, scope: Scope) -> Mapping[str, Scalar]:
    """A map of names to text that must be written out (`with` of a step, job outputs)."""
    found = text_map(source, value, at, scope)
    return {INSERT: found} if isinstance(found, str) else found
