"""GitHub's filter patterns for branches, tags and paths: `*`, `**`, `?`, `+`, `[]`, `\\`, and ordered `!`.

Common patterns become regular expressions; those on which a regular expression could go astray are run as
an automaton whose time is linear in the value.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

MAX_PATTERN = 1000
"""Characters of one pattern."""
_SAFE_STARS, _SAFE_VALUE = 2, 256
"""So many unbounded repeats and so long a value at most keep a regular expression quadratic and quick."""


class _Item(NamedTuple):
    """One element of a pattern: a regular expression for one character, and how often it may come."""

    character: str
    repeat: str = ""
    """Empty, `?`, `+` or `*`."""


_FOLDERS = _Item("", "folders")
"""`**/` at the start or behind a slash: any folders, or none and no slash either."""


def match_patterns(patterns: Sequence[str], value: str) -> bool:
    """Whether `value` is selected: the last pattern that matches decides, and one with `!` deselects.

    Raises ValueError for a malformed pattern.
    """
    selected = False
    for pattern in patterns:
        if pattern[:1] == "!":
            if selected and _matcher(pattern[1:])(value):
                selected = False
        elif not selected:
            selected = _matcher(pattern)(value)
    return selected


def check_pattern(pattern: str) -> None:
    """Raise ValueError with a sentence if the pattern is malformed."""
    _parse(pattern.removeprefix("!"))


@functools.lru_cache(maxsize=2048)
def _matcher(pattern: str) -> Callable[[str], bool]:
    if not any(character in pattern for character in "*?+[\\"):
        return pattern.__eq__
    items = _parse(pattern)
    expression = re.compile("".join(map(_expression, items)), re.DOTALL).fullmatch
    automaton = _Automaton(items)
    stars = sum(item.repeat in ("*", "+", "folders") for item in items)

    def matches(value: str) -> bool:
        if stars <= _SAFE_STARS and len(value) <= _SAFE_VALUE:
            return expression(value) is not None
        return automaton.matches(value)

    return matches


def _expression(item: _Item) -> str:
    return "(?:.*/)?" if item is _FOLDERS else item.character + item.repeat


def _parse(pattern: str) -> list[_Item]:
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN} characters")
    if not pattern:
        raise ValueError("a pattern cannot be empty")
    items: list[_Item] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "*":
            length = 2 if pattern.startswith("**", at) else 1
            if length == 2 and pattern.startswith("/", at + 2) and (at == 0 or pattern[at - 1] == "/"):
                items.append(_FOLDERS)
                length = 3
            else:
                items.append(_Item("." if length == 2 else "[^/]", "*"))
            at += length
        elif character in "?+":
            if not items or items[-1].repeat:
                raise ValueError(f"{character!r} must follow the character that it repeats")
            items[-1] = _Item(items[-1].character, character)
            at += 1
        elif character == "[":
            found, at = _bracket(pattern, at + 1)
            items.append(_Item(found))
        elif character == "\\":
            if at + 1 == len(pattern):
                raise ValueError("a pattern cannot end with a single backslash")
            items.append(_Item(re.escape(pattern[at + 1])))
            at += 2
        else:
            items.append(_Item(re.escape(character)))
            at += 1
    return items


def _bracket(pattern: str, at: int) -> tuple[str, int]:
    end = pattern.find("]", at)
    if end < 0:
        raise ValueError("'[' is not closed by ']'")
    content = pattern[at:end]
    if not content:
        raise ValueError("'[]' is empty")
    parts: list[str] = []
    index = 0
    while index < len(content):
        first = last = content[index]
        index += 1
        if content[index : index + 1] == "-" and index + 1 < len(content):
            last = content[index + 1]
            index += 2
            if first > last:
                raise ValueError(f"the range {first}-{last} in '[]' runs backwards")
        parts.append(f"{re.escape(first)}-{re.escape(last)}")
    return f"[{''.join(parts)}]", end + 1


class _Automaton:
    """The pattern as a non-deterministic automaton whose states are the bits of one number."""

    def __init__(self, items: Sequence[_Item]) -> None:
        self._tests: list[Callable[[str], object]] = []
        self._loops = self._empty = self._skips = 0
        for item in items:
            if item is _FOLDERS:
                bit = 1 << len(self._tests)
                self._empty |= bit
                self._skips |= bit
                self._tests.append(lambda character: False)
                self._add(".", "*")
                self._add("/", "")
            elif item.repeat == "+":
                self._add(item.character, "")
                self._add(item.character, "*")
            else:
                self._add(item.character, item.repeat)
        self._final = 1 << len(self._tests)
        self._takes: dict[str, int] = {}

    def _add(self, character: str, repeat: str) -> None:
        bit = 1 << len(self._tests)
        if repeat:
            self._empty |= bit
        if repeat == "*":
            self._loops |= bit
        self._tests.append(re.compile(character, re.DOTALL).fullmatch)

    def matches(self, value: str) -> bool:
        """Whether the pattern takes the whole value."""
        states = self._closed(1)
        for character in value:
            moved = states & self._taking(character)
            states = self._closed((moved & self._loops) | ((moved & ~self._loops) << 1))
            if not states:
                return False
        return bool(states & self._final)

    def _taking(self, character: str) -> int:
        found = self._takes.get(character)
        if found is None:
            found = sum(1 << index for index, test in enumerate(self._tests) if test(character))
            if len(self._takes) < 256:
                self._takes[character] = found
        return found

    def _closed(self, states: int) -> int:
        """The states reachable without reading a character."""
        while True:
            more = states | ((states & self._empty) << 1) | ((states & self._skips) << 3)
            if more == states:
                return states
            states = more
