"""The functions every expression may call, and the budget that bounds what they build."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runnerd.workflow.expressions.values import equal, fold, format_number, is_primitive, to_text
from runnerd.workflow.model import ExpressionError

STATUS_FUNCTIONS = frozenset(("always", "cancelled", "failure", "success"))
"""Functions whose presence in a condition replaces the implied `success()`."""
SUPPLIED_FUNCTIONS = STATUS_FUNCTIONS | {"hashfiles"}
"""Functions GitHub knows whose answer only the caller has."""

_JSON_DEPTH = 100
_CHEAP = 256


class Budget:
    """How many bytes one evaluation may still build; a character counts two."""

    __slots__ = ("left", "limit")

    def __init__(self, limit: int) -> None:
        self.left = self.limit = limit

    def take(self, characters: int) -> None:
        """Count text before it is built; raises `ExpressionError` when that is too much."""
        self.left -= 2 * characters
        if self.left < 0:
            raise ExpressionError(f"The expression needs more than {self.limit} bytes of memory")


def _folded(value: Any, budget: Budget) -> str:
    text = to_text(value)
    if len(text) > _CHEAP:
        budget.take(len(text))
    return fold(text)


def contains(arguments: Sequence[Any], budget: Budget) -> bool:
    """Whether a string has a substring, or an array an item that is `==`."""
    search, item = arguments
    if is_primitive(search):
        return is_primitive(item) and _folded(item, budget) in _folded(search, budget)
    if isinstance(search, list | tuple):
        if len(search) > _CHEAP:
            budget.take(len(search))
        return any(equal(each, item) for each in search)
    return False


def starts_with(arguments: Sequence[Any], budget: Budget) -> bool:
    """Whether a string begins with another, without case."""
    text, prefix = arguments
    if not (is_primitive(text) and is_primitive(prefix)):
        return False
    return _folded(text, budget).startswith(_folded(prefix, budget))


def ends_with(arguments: Sequence[Any], budget: Budget) -> bool:
    """Whether a string ends with another, without case."""
    text, suffix = arguments
    if not (is_primitive(text) and is_primitive(suffix)):
        return False
    return _folded(text, budget).endswith(_folded(suffix, budget))


def join(arguments: Sequence[Any], budget: Budget) -> str:
    """An array's items as text between separators; `,` unless one is given."""
    items = arguments[0]
    separator = to_text(arguments[1]) if len(arguments) > 1 and is_primitive(arguments[1]) else ","
    if is_primitive(items):
        return to_text(items)
    if not isinstance(items, list | tuple):
        return ""
    budget.take(len(items) * (1 + len(separator)))
    parts = []
    for item in items:
        text = to_text(item)
        budget.take(len(text))
        parts.append(text)
    return separator.join(parts)


_FORMAT = re.compile(r"[^{}]+|\{\{|\}\}|\{(\d+)\}")


def format_text(pattern: str, argument: Callable[[int], Any], count: int, budget: Budget) -> str:
    """`{0}` replaced by `argument(0)` as text, `{{` and `}}` by single braces."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        found = _FORMAT.match(pattern, at)
        if found is None:
            raise ExpressionError(f"The following format string is invalid: {pattern[:500]}")
        at = found.end()
        number = found.group(1)
        if number is None:
            part = found.group()
            part = part[0] if part in ("{{", "}}") else part
        elif len(number) > 3 or int(number) >= count:
            raise ExpressionError(
                f"The following format string references more arguments than were supplied: {pattern[:500]}"
            )
        else:
            part = to_text(argument(int(number)))
        budget.take(len(part))
        parts.append(part)
    return "".join(parts)


def to_json(arguments: Sequence[Any], budget: Budget) -> str:
    """A value as JSON indented by two spaces, in the order of its keys."""
    parts: list[str] = []

    def put(text: str) -> None:
        budget.take(len(text))
        parts.append(text)

    _write_json(arguments[0], 0, put)
    return "".join(parts)


def _write_json(value: Any, depth: int, put: Callable[[str], None]) -> None:
    if depth > _JSON_DEPTH:
        raise ExpressionError(f"toJSON was given a value nested deeper than {_JSON_DEPTH}")
    if isinstance(value, str):
        put(_quoted(value))
    elif isinstance(value, Mapping | list | tuple):
        _write_items(value, depth, put)
    elif value is None:
        put("null")
    elif isinstance(value, bool):
        put("true" if value else "false")
    else:
        put(format_number(value))


def _write_items(value: Mapping[str, Any] | Sequence[Any], depth: int, put: Callable[[str], None]) -> None:
    opening, closing = ("{", "}") if isinstance(value, Mapping) else ("[", "]")
    if not value:
        return put(opening + closing)
    put(opening)
    indent = "\n" + "  " * (depth + 1)
    separator = indent
    for item in value:
        put(separator)
        separator = "," + indent
        if isinstance(value, Mapping):
            put(_quoted(str(item)) + ": ")
            _write_json(value[item], depth + 1, put)
        else:
            _write_json(item, depth + 1, put)
    put("\n" + "  " * depth + closing)


_ALSO_ESCAPED = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isascii() else quoted.translate(_ALSO_ESCAPED)


def from_json(arguments: Sequence[Any], budget: Budget) -> Any:
    """The value that a JSON text holds."""
    text = to_text(arguments[0])
    budget.take(len(text))
    try:
        return json.loads(text, parse_int=_json_int)
    except json.JSONDecodeError as wrong:
        if not text.strip():
            raise ExpressionError("fromJSON was given an empty text, which is not JSON") from None
        raise ExpressionError(
            f"fromJSON was given a text that is not JSON: {wrong.msg}, at {wrong.lineno}:{wrong.colno}"
        ) from None
    except RecursionError:
        raise ExpressionError("fromJSON was given a text nested too deeply") from None


def _json_int(text: str) -> int | float:
    return int(text) if len(text) <= 15 else float(text)


FUNCTIONS: dict[str, Callable[[Sequence[Any], Budget], Any]] = {
    "contains": contains,
    "startswith": starts_with,
    "endswith": ends_with,
    "join": join,
    "tojson": to_json,
    "fromjson": from_json,
}
"""By lower-cased name; `format` and `case` evaluate their arguments themselves."""
