"""Values of expressions and GitHub's coercions between them: kinds, truth, numbers, text, equality and order.

A value is None, bool, int or float, str, a list or a mapping; anything else is refused by `kind_of`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII).fullmatch
_HEX = re.compile(r"0x[0-9a-fA-F]+").fullmatch
_OCTAL = re.compile(r"0o[0-7]+").fullmatch
_NAN = float("nan")
_WORDS = {"": 0.0, "Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}


class Filtered(list[Any]):
    """What `*` gives: an array through which a further index reads every item."""

    __slots__ = ()


def truthy(value: Any) -> bool:
    """False for null, false, 0, NaN and the empty string."""
    kind = type(value)
    if kind is bool:
        return bool(value)
    if value is None:
        return False
    if kind is str:
        return bool(value)
    if kind is int or kind is float:
        return bool(value) and not math.isnan(value)
    return True


def is_primitive(value: Any) -> bool:
    """Whether the value is neither an array nor an object."""
    return value is None or isinstance(value, str | bool | int | float)


def parse_number(text: str) -> float:
    """A string as a number: decimal, `0x`, `0o`, `Infinity`; blank is 0, anything else NaN."""
    text = text.strip()
    word = _WORDS.get(text)
    if word is not None:
        return word
    if _NUMBER(text):
        return float(text)
    if _HEX(text) or _OCTAL(text):
        try:
            return float(int(text, 0))
        except OverflowError:
            return math.inf
    return _NAN


def to_number(value: Any) -> float:
    """null is 0, true is 1, arrays and objects are NaN."""
    kind = type(value)
    if kind is str:
        return parse_number(value)
    if kind is float:
        return float(value)
    if value is None:
        return 0.0
    if kind is bool or kind is int:
        return _from_int(value)
    return _NAN


def _from_int(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def format_number(value: float) -> str:
    """A number with up to 15 significant digits, in scientific notation below 1E-05 and from 1E+15 on."""
    if type(value) is int:
        if -(10**15) < value < 10**15:
            return str(value)
        value = _from_int(value)
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    text = f"{value:.15g}"
    mantissa, letter, exponent = text.partition("e")
    if not letter:
        return text
    power = int(exponent)
    if power == -5:
        # C prints 0.00001 as 1e-05 and so does GitHub; both switch at the same place
        return f"{mantissa}E-05"
    return f"{mantissa}E{'-' if power < 0 else '+'}{abs(power):02d}"


def to_text(value: Any) -> str:
    """A value inside text; arrays and objects are only named."""
    kind = type(value)
    if kind is str:
        return str(value)
    if value is None:
        return ""
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float:
        return format_number(value)
    if isinstance(value, Mapping):
        return "Object"
    if isinstance(value, list | tuple):
        return "Array"
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{kind.__name__} is not a value an expression can hold")


def fold(text: str) -> str:
    """Text for comparing without case, character by character: `ß` stays, `ς` and `σ` are both `Σ`."""
    if text.isascii():
        return text.upper()
    return "".join(map(_fold_character, text))


def _fold_character(character: str) -> str:
    upper = character.upper()
    return upper if len(upper) == 1 and (upper > "\x7f" or character < "\x80") else character


def equal(left: Any, right: Any) -> bool:
    """GitHub's `==`: strings without case, mixed kinds as numbers, arrays and objects only by identity."""
    left, right = _coerce(left, right)
    if left is None:
        return right is None
    if type(left) is str:
        return type(right) is str and (left == right or fold(left) == fold(right))
    if type(left) is bool or type(right) is bool:
        return type(left) is type(right) and bool(left == right)
    if isinstance(left, int | float):
        return isinstance(right, int | float) and left == right
    return left is right


def less(left: Any, right: Any) -> bool:
    """GitHub's `<`; false wherever the two cannot be ordered."""
    left, right = _coerce(left, right)
    if type(left) is str and type(right) is str:
        return _units(fold(left)) < _units(fold(right))
    if type(left) is bool or type(right) is bool:
        return type(left) is type(right) and left < right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left < right
    return False


def _units(text: str) -> bytes:
    """UTF-16 code units, by which GitHub orders strings."""
    return text.encode("utf-16-be", "surrogatepass")


def _coerce(left: Any, right: Any) -> tuple[Any, Any]:
    """Both sides as one kind, where there is one: null and booleans among others become numbers."""
    left_kind, right_kind = _kind(left), _kind(right)
    if left_kind == right_kind:
        return left, right
    if left_kind in _NUMERIC and right_kind in _NUMERIC:
        return to_number(left), to_number(right)
    return left if left_kind not in _WEAK else to_number(
        left
    ), right if right_kind not in _WEAK else to_number(right)


_NUMERIC = frozenset(("null", "boolean", "number", "string"))
_WEAK = frozenset(("null", "boolean"))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "object" if isinstance(value, Mapping) else "array"


def kind_of(value: Any) -> str:
    """null, boolean, number, string, array or object, for messages."""
    return _kind(value)
