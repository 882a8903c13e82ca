"""Problem matchers, by which tools' output becomes annotations: their files, and what a line comes to. Pure.

Rules of GitHub's runner: one pattern, or several for lines that follow each other, of which the last may
repeat; the first matcher that finds a problem takes the line.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

import msgspec
import regex

SECONDS = 1.0
"""How long one pattern may take over one line."""
LEVELS = ("error", "warning", "notice")

_PATTERN = 4096
"""Characters of a pattern at most."""
_MATCHERS = 100
"""Matchers in one file at most."""
_PATTERNS = 20
"""Patterns of one matcher at most."""
_FIELDS = ("file", "from_path", "line", "column", "severity", "code", "message")


class BadMatcher(ValueError):
    """The file holds no matchers that can be used; says why."""


class Pattern(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One line's pattern, and which of its groups is what."""

    regexp: str = ""
    file: int | None = None
    from_path: int | None = None
    line: int | None = None
    column: int | None = None
    severity: int | None = None
    code: int | None = None
    message: int | None = None
    loop: bool = False


class Matcher(msgspec.Struct, frozen=True, kw_only=True):
    """A tool's matcher; a later one with the same `owner` (without case) takes its place."""

    owner: str = ""
    severity: str = ""
    pattern: tuple[Pattern, ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A problem in the output, as the groups have it."""

    file: str = ""
    from_path: str = ""
    line: str = ""
    column: str = ""
    severity: str = ""
    code: str = ""
    message: str = ""


class _File(msgspec.Struct, frozen=True):
    problemMatcher: tuple[Matcher, ...] = ()


def read_matchers(data: bytes) -> tuple[Matcher, ...]:
    """Read a file of matchers, which may begin with a BOM and hold comments; raises `BadMatcher`."""
    try:
        found = msgspec.convert(json.loads(_plain(data.decode("utf-8-sig"))), _File, strict=False)
    except (ValueError, RecursionError) as error:
        raise BadMatcher(f"the file is no list of problem matchers: {error}") from error
    if len(found.problemMatcher) > _MATCHERS:
        raise BadMatcher(f"the file has more than {_MATCHERS} problem matchers")
    owners: set[str] = set()
    for matcher in found.problemMatcher:
        if not matcher.owner:
            raise BadMatcher("a problem matcher has no owner")
        if matcher.owner.lower() in owners:
            raise BadMatcher(f"the owner {matcher.owner[:80]!r} is there twice")
        owners.add(matcher.owner.lower())
        try:
            _check(matcher)
        except BadMatcher as error:
            raise BadMatcher(f"the problem matcher {matcher.owner[:80]!r}: {error}") from error
    return found.problemMatcher


def owners_of(data: bytes) -> tuple[str, ...]:
    """Return whose matchers a file holds; raises `BadMatcher`."""
    return tuple(matcher.owner for matcher in read_matchers(data))


class Tried:
    """One matcher with its patterns compiled, and how far it is in each step's output.

    Compiling may take any time and memory, so it is not for the daemon's own process. Raises `BadMatcher`.
    """

    def __init__(self, matcher: Matcher) -> None:
        self.owner = matcher.owner
        self._matcher = matcher
        self._patterns = [_compiled(pattern) for pattern in matcher.pattern]
        self._running: dict[int, list[Found | None]] = {}

    def forget(self, step: int) -> None:
        """Begin anew in this step's output."""
        self._running.pop(step, None)

    def take(self, step: int, line: str) -> Found | None:
        """Return the problem that this line completes; raises TimeoutError, after which it began anew."""
        try:
            return self._take(self._running.setdefault(step, [None] * (len(self._patterns) - 1)), line)
        except TimeoutError:
            self.forget(step)
            raise

    def _take(self, running: list[Found | None], line: str) -> Found | None:
        last = len(self._patterns) - 1
        # Backwards, so that no line counts for two patterns.
        for index in range(last, -1, -1):
            before = running[index - 1] if index else None
            if index and before is None:
                continue
            pattern = self._matcher.pattern[index]
            match = self._patterns[index].search(line, timeout=SECONDS)
            if index < last:
                running[index] = None if match is None else _found(pattern, match, before)
            elif match is None:
                if index:
                    running[index - 1] = None
            else:
                running[:] = [None] * last
                if pattern.loop:
                    running[index - 1] = before
                found = _found(pattern, match, before)
                return msgspec.structs.replace(found, severity=found.severity or self._matcher.severity)
        return None


class Scanner:
    """Every matcher of a job, the one added last first."""

    def __init__(self) -> None:
        self._tried: list[Tried] = []

    def add(self, matchers: Sequence[Matcher]) -> None:
        """Take these in place of earlier ones of their owners; changes nothing if it raises `BadMatcher`."""
        for tried in [Tried(matcher) for matcher in matchers]:
            self.remove([tried.owner])
            self._tried.insert(0, tried)

    def remove(self, owners: Sequence[str]) -> None:
        """Take an owner's matcher away."""
        gone = {owner.lower() for owner in owners}
        self._tried = [tried for tried in self._tried if tried.owner.lower() not in gone]

    def end(self, step: int) -> None:
        """The step's output is over."""
        for tried in self._tried:
            tried.forget(step)

    def take(self, step: int, line: str) -> tuple[Found | None, list[str]]:
        """Return the problem that a line of a step completes, and the owners whose patterns took too long.

        Such a matcher is removed.
        """
        slow: list[str] = []
        found = None
        for tried in self._tried:
            try:
                found = tried.take(step, line)
            except TimeoutError:
                slow.append(tried.owner)
                continue
            if found is None:
                continue
            for other in self._tried:
                if other is not tried:
                    other.forget(step)
            if found.message.strip() and (found.severity.lower() or LEVELS[0]) in LEVELS:
                break
            found = None
        self.remove(slow)
        return found, slow


def _check(matcher: Matcher) -> None:
    if matcher.severity and matcher.severity.lower() not in LEVELS:
        raise BadMatcher(f"its severity {matcher.severity[:80]!r} is none of {', '.join(LEVELS)}")
    if not matcher.pattern:
        raise BadMatcher("it has no pattern")
    if len(matcher.pattern) > _PATTERNS:
        raise BadMatcher(f"it has more than {_PATTERNS} patterns")
    seen: set[str] = set()
    last = len(matcher.pattern) - 1
    for index, pattern in enumerate(matcher.pattern):
        if pattern.loop and (index == 0 or index < last):
            raise BadMatcher("only the last of several patterns may loop")
        if pattern.loop and pattern.message is None:
            raise BadMatcher("the pattern that loops must set 'message'")
        if len(pattern.regexp) > _PATTERN:
            raise BadMatcher(f"a pattern is longer than {_PATTERN} characters")
        for field in _FIELDS:
            if getattr(pattern, field) is None:
                continue
            if field in seen:
                raise BadMatcher(f"'{field}' is set twice")
            seen.add(field)
    if "message" not in seen:
        raise BadMatcher("no pattern sets 'message'")


def _compiled(pattern: Pattern) -> regex.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # GitHub's patterns are ECMAScript's: \d and \w are ASCII.
            compiled = regex.compile(pattern.regexp, regex.ASCII)
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadMatcher(f"the pattern {pattern.regexp[:80]!r} cannot be used: {error}") from error
    for field in _FIELDS:
        group = getattr(pattern, field)
        if group is not None and not 0 <= group <= compiled.groups:
            raise BadMatcher(
                f"'{field}' is {group}, but {pattern.regexp[:80]!r} has {compiled.groups} groups"
            )
    return compiled


def _found(pattern: Pattern, match: Any, before: Found | None) -> Found:
    """What an earlier line said wins, as long as it said anything."""
    values = {}
    for field in _FIELDS:
        group = getattr(pattern, field)
        kept = getattr(before, field) if before is not None else ""
        values[field] = kept or (match[group] or "" if group is not None else "")
    return Found(**values)


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?(?:\*/|\Z)|,(?=\s*[\]}])', re.DOTALL)


def _plain(text: str) -> str:
    """Leave out comments, and a comma after a last element."""
    without = _TOKEN.sub(lambda match: match[0] if match[0][0] in '",' else " ", text)
    return _TOKEN.sub(lambda match: match[0] if match[0][0] == '"' else "", without)
