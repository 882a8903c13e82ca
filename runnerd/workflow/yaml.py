"""Workflow YAML as GitHub reads it: YAML 1.2 core schema, anchors, no merge keys, each node with its place.

Nothing but `WorkflowErrors` is raised, and nothing larger, deeper or more expanded than the limits is built.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

from runnerd.workflow.model import Limits, Problem, WorkflowErrors

_INT = re.compile(r"[-+]?[0-9]+").fullmatch
_OCTAL = re.compile(r"0o[0-7]+").fullmatch
_HEX = re.compile(r"0x[0-9a-fA-F]+").fullmatch
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?").fullmatch
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)").fullmatch
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_NAN = frozenset((".nan", ".NaN", ".NAN"))
_WORDS: dict[str, Any] = {
    **dict.fromkeys(_NULLS),
    **dict.fromkeys(_TRUE, True),
    **dict.fromkeys(_FALSE, False),
    **dict.fromkeys(_NAN, float("nan")),
}
_NUMERIC = frozenset("-+.0123456789")
_EXACT = 1 << 53
_TAG = "tag:yaml.org,2002:"


class Map(dict[str, Any]):
    """A mapping that knows where its keys and values stand: parser events by key.

    `raw` has the source text of a plain scalar that became something else than a string, where one needs it.
    """

    __slots__ = ("keys_at", "values_at")

    keys_at: dict[str, Any]
    values_at: dict[str, Any]

    def raw(self, key: str) -> str:
        """The scalar's source text before the core schema gave it a type."""
        return str(self.values_at[key].value)


class Seq(list[Any]):
    """A sequence that knows where its items stand."""

    __slots__ = ("items_at",)

    items_at: list[Any]


class Document:
    """One parsed file: its root value, where it starts, and the problems that did not end the reading."""

    __slots__ = ("at", "problems", "root")

    def __init__(self, root: Any, at: Any, problems: list[Problem]) -> None:
        self.root, self.at, self.problems = root, at, problems


class _Stop(Exception):
    """Reading cannot go on; becomes a `WorkflowErrors`."""

    def __init__(self, line: int, column: int, message: str, *, doubtful: bool = False) -> None:
        self.line, self.column, self.message, self.doubtful = line, column, message, doubtful
        super().__init__(message)


def read(text: str, *, path: str, limits: Limits = Limits()) -> Document:  # noqa: B008 - frozen
    """Parse one document.

    Integers that a double holds exactly are `int`, other numbers `float`, dates and `yes` are strings.
    Duplicate keys (compared as GitHub does, without case) are in `Document.problems`; the first one counts.

    Raises `WorkflowErrors` for a syntax error or a broken limit.
    """
    try:
        _check_text(text, limits)
        try:
            return _Builder(_c_events(text), path, limits).document()
        except _Stop:
            raise
        except Exception as refused:  # the parser's errors share no useful base before it is imported
            return _read_pure(text, path, limits, refused)
    except _Stop as stop:
        problem = Problem(path=path, line=stop.line, column=stop.column, message=stop.message)
        raise WorkflowErrors((problem,), doubtful=stop.doubtful) from None


def _check_text(text: str, limits: Limits) -> None:
    if len(text) > limits.text:
        raise _Stop(1, 1, f"the file has {len(text)} characters, {limits.text} is the limit")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line, column = _position(text, error.start)
        raise _Stop(line, column, "a lone surrogate is not a character") from None


def _position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of a character."""
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def _c_events(text: str) -> Callable[[], Any]:
    from _ruamel_yaml import CParser

    next_event: Callable[[], Any] = CParser(text).get_event
    return next_event


def _pure_events(text: str) -> Callable[[], Any]:
    from ruamel.yaml import YAML

    events: Iterator[Any] = YAML(typ="safe", pure=True).parse(io.StringIO(text))
    return events.__next__


def _read_pure(text: str, path: str, limits: Limits, refused: Exception) -> Document:
    """Second opinion: libyaml refuses some valid flow scalars (`[http://x:80/, a:b]`).

    A text too large for the slow parser keeps libyaml's verdict, and so does one that both refuse.
    """
    from ruamel.yaml.error import YAMLError

    if not isinstance(refused, YAMLError):
        raise refused
    asked = len(text) <= limits.second_opinion
    if asked:
        try:
            return _Builder(_pure_events(text), path, limits).document()
        except _Stop:
            raise
        except (
            YAMLError,
            ValueError,
            RecursionError,
            IndexError,
            AttributeError,
            TypeError,
            NotImplementedError,
        ):
            pass  # the pure parser leaks builtin errors on some broken input
    mark = getattr(refused, "problem_mark", None) or getattr(refused, "context_mark", None)
    if mark is not None:
        line, column = mark.line + 1, mark.column + 1
    else:
        line, column = _position(text, min(int(getattr(refused, "position", 0)), len(text)))
    problem = getattr(refused, "problem", None) or getattr(refused, "reason", None) or "not valid YAML"
    context = getattr(refused, "context", None)
    sentence = f"{problem} ({context})" if context else str(problem)
    raise _Stop(line, column, sentence, doubtful=not asked)


def plain(text: str) -> Any:
    """What a plain scalar means in the core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMERIC:
        if _INT(text) or _FLOAT(text):
            return _number(float(text))
        if _HEX(text) or _OCTAL(text):
            try:
                return _number(float(int(text, 0)))
            except OverflowError:
                return float("inf")
        if _INFINITY(text):
            return float(text.replace(".", ""))
    return text


def _number(value: float) -> int | float:
    return int(value) if -_EXACT < value < _EXACT and value.is_integer() else value


def _tagged(tag: str, text: str, style: str | None) -> Any:
    """The value of a scalar with an explicit core tag; raises ValueError with the sentence."""
    kind = tag.removeprefix(_TAG)
    if kind == "str" or tag == "!":
        return text
    if not tag.startswith(_TAG) or kind not in ("null", "bool", "int", "float"):
        raise ValueError(f"the tag {tag} is not supported")
    if style in ('"', "'", "|", ">"):
        raise ValueError(f"a quoted or block scalar cannot have the tag !!{kind}")
    value = plain(text)
    fits = {
        "null": value is None,
        "bool": isinstance(value, bool),
        "int": bool(_INT(text) or _OCTAL(text) or _HEX(text)),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
    }
    if not fits[kind]:
        raise ValueError(f"{text[:100]!r} is not a valid {kind}")
    return value


class _Builder:
    """Events in, values out; counts what it builds."""

    def __init__(self, next_event: Callable[[], Any], path: str, limits: Limits) -> None:
        from ruamel.yaml import events

        self._scalar, self._alias = events.ScalarEvent, events.AliasEvent
        self._mapping_start, self._mapping_end = events.MappingStartEvent, events.MappingEndEvent
        self._sequence_end, self._stream_end = events.SequenceEndEvent, events.StreamEndEvent
        self._next, self._path, self._limits = next_event, path, limits
        self._nodes = 0
        self._anchors: dict[str, tuple[Any, Any, int, int]] = {}
        self._problems: list[Problem] = []

    def document(self) -> Document:
        self._next()
        start = self._next()
        if isinstance(start, self._stream_end):
            raise _Stop(1, 1, "the file is empty")
        event = self._next()
        root, at, _ = self._node(event, 0)
        self._next()
        end = self._next()
        if not isinstance(end, self._stream_end):
            raise _stop(end, "a workflow file holds one document only")
        return Document(root, at, self._problems)

    def _node(self, event: Any, depth: int) -> tuple[Any, Any, int]:
        """The value, the event that says where it stands, and the depth of the collections in it."""
        self._nodes += 1
        kind = type(event)
        if kind is self._scalar:
            if self._nodes > self._limits.nodes:
                raise _stop(event, f"more than {self._limits.nodes} values")
            value = self._value(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = (value, event, 1, 0)
            return value, event, 0
        if kind is self._alias:
            return self._aliased(event, depth)
        if self._nodes > self._limits.nodes:
            raise _stop(event, f"more than {self._limits.nodes} values")
        if depth >= self._limits.depth:
            raise _stop(event, f"nested deeper than {self._limits.depth}")
        tag = event.tag
        mapping = kind is self._mapping_start
        if tag is not None and str(tag) not in ("!", _TAG + ("map" if mapping else "seq")):
            raise _stop(event, f"the tag {tag} is not supported")
        before = self._nodes
        value, height = self._mapping(depth + 1) if mapping else self._sequence(depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, event, self._nodes - before + 1, height)
        return value, event, height

    def _value(self, event: Any) -> Any:
        tag = event.tag
        if tag is None:
            return plain(event.value) if event.implicit[0] else event.value
        try:
            return _tagged(str(tag), event.value, event.style)
        except ValueError as wrong:
            raise _stop(event, str(wrong)) from None

    def _aliased(self, event: Any, depth: int) -> tuple[Any, Any, int]:
        if event.anchor not in self._anchors:
            raise _stop(event, f"the alias *{event.anchor[:100]} refers to no anchor before it")
        value, at, size, height = self._anchors[event.anchor]
        self._nodes += size - 1
        if self._nodes > self._limits.nodes:
            raise _stop(event, f"more than {self._limits.nodes} values once the aliases are expanded")
        if depth + height > self._limits.depth:
            raise _stop(event, f"nested deeper than {self._limits.depth} once the aliases are expanded")
        return value, at, height

    def _mapping(self, depth: int) -> tuple[Map, int]:
        out = Map()
        keys_at: dict[str, Any] = {}
        values_at: dict[str, Any] = {}
        seen: dict[str, str] = {}
        out.keys_at, out.values_at = keys_at, values_at
        height = 0
        next_event, end, scalar = self._next, self._mapping_end, self._scalar
        while type(event := next_event()) is not end:
            key = self._key(event)
            folded = key.upper()
            value, at, below = self._node(next_event(), depth)
            if below > height:
                height = below
            if folded in seen:
                first = keys_at[seen[folded]].start_mark.line + 1
                self._problem(event, f"{key!r} is already defined, at line {first}")
                continue
            seen[folded] = key
            out[key] = value
            keys_at[key] = event if type(event) is scalar else at
            values_at[key] = at
        return out, height + 1

    def _key(self, event: Any) -> str:
        if type(event) is self._alias:
            value = self._aliased(event, 0)[0]
        elif type(event) is not self._scalar:
            raise _stop(event, "a key must be a single value, not a mapping or a sequence")
        else:
            self._nodes += 1
            if self._nodes > self._limits.nodes:
                raise _stop(event, f"more than {self._limits.nodes} values")
            if event.value == "<<" and event.implicit[0]:
                raise _stop(
                    event,
                    "merge keys (<<) are not supported; use an alias for the whole value",
                )
            value = self._value(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = (value, event, 1, 0)
        if type(value) is str:
            return value
        if isinstance(value, dict | list):
            raise _stop(event, "a key must be a single value, not a mapping or a sequence")
        from runnerd.workflow.expressions.values import to_text

        return to_text(value)

    def _sequence(self, depth: int) -> tuple[Seq, int]:
        out = Seq()
        items_at: list[Any] = []
        out.items_at = items_at
        height = 0
        next_event, end = self._next, self._sequence_end
        while type(event := next_event()) is not end:
            value, at, below = self._node(event, depth)
            if below > height:
                height = below
            out.append(value)
            items_at.append(at)
        return out, height + 1

    def _problem(self, event: Any, message: str) -> None:
        mark = event.start_mark
        if len(self._problems) < self._limits.errors:
            self._problems.append(
                Problem(path=self._path, line=mark.line + 1, column=mark.column + 1, message=message)
            )


def _stop(event: Any, message: str) -> _Stop:
    return _Stop(event.start_mark.line + 1, event.start_mark.column + 1, message)
