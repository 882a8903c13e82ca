"""The configuration in words: what a key takes, what it holds, which name was probably meant."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from runnerd.config.sections import Secret

_KINDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def is_secret(kind: Any) -> bool:
    """Whether a field of this type holds a secret."""
    return Secret in typing.get_args(kind)


def expected(kind: Any) -> str:
    """Say what a field of this type takes: `must be …`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return str(arguments[1].description)
    if origin is typing.Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in arguments)
    if origin is tuple:
        return f"a list, each {expected(arguments[0])}"
    return _KINDS.get(kind, "a string")


def shown(value: object) -> str:
    """Show a value as it would stand in config.toml; a secret as `***`."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return msgspec.json.encode(value).decode() if isinstance(value, str) else str(value)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of an error sentence: the name that was probably meant, or the few there are."""
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if 0 < len(known) <= 15 else ""
