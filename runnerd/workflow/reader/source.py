"""One file being read: its limits, the problems found so far, and the checks that every noun needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from runnerd.workflow.expressions.compiler import BUILTIN, Compiled
from runnerd.workflow.expressions.template import templated
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.model import ExpressionError, Limits, Place, Problem
from runnerd.workflow.reader.scope import Scope, known_context, known_function
from runnerd.workflow.yaml import Map, Seq

_PATHS_ONLY = re.compile(
    r"(?:[^$]|\$(?!\{\{))*+"
    r"(?:\$\{\{ *([a-zA-Z]+)(?:\.[a-zA-Z_][a-zA-Z0-9_-]*){0,9} *\}\}(?:[^$]|\$(?!\{\{))*+)+"
)
_PATHS = re.compile(r"\$\{\{ *([a-zA-Z]+)")
_SHORT = 10_000

Read = Callable[["Source", Any, Any, Scope], Any]


class Field(NamedTuple):
    """How the value under one key is read: the model's field, the reader, the scope of its expressions."""

    name: str
    read: Read
    scope: Scope


Table = Mapping[str, Field]


class Source:
    """Collects problems while the nouns of one file are read."""

    def __init__(self, path: str, limits: Limits, features: frozenset[str]) -> None:
        self.path, self.limits, self.features = path, limits, features
        self.problems: list[Problem] = []
        self.unsupported: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, at: Any, message: str) -> None:
        """Note what is wrong at a parser event; only the first so many are kept."""
        if len(self.problems) < self.limits.errors:
            self.problems.append(self._problem(at, message, "error"))

    def called(self, problems: Iterable[Problem]) -> None:
        """Note the problems of another file that this one brings in."""
        self.problems.extend(problems)
        del self.problems[self.limits.errors :]

    def warn(self, at: Any, message: str) -> None:
        """Note what GitHub accepts and is most likely not meant."""
        if len(self.warnings) < self.limits.errors:
            self.warnings.append(self._problem(at, message, "warning"))

    def cannot(self, at: Any, message: str, severity: str = "error") -> None:
        """Note what the file asks for and the caller cannot do."""
        if len(self.unsupported) < self.limits.errors:
            self.unsupported.append(self._problem(at, message, severity))

    def _problem(self, at: Any, message: str, severity: str) -> Problem:
        mark = at.start_mark
        return Problem(
            path=self.path, line=mark.line + 1, column=mark.column + 1, severity=severity, message=message
        )

    def fields(self, mapping: Map, table: Table, what: str) -> dict[str, Any]:
        """Read every key of a mapping by its table; unknown keys are problems."""
        out: dict[str, Any] = {}
        at = mapping.values_at
        for key, value in mapping.items():
            field = table.get(key)
            if field is None:
                self.unexpected(mapping.keys_at[key], key, table, what)
            else:
                out[field.name] = field.read(self, value, at[key], field.scope)
        return out

    def unexpected(self, at: Any, word: str, valid: Iterable[str], what: str) -> None:
        """Note a word that does not belong where it stands, with the nearest one that does."""
        if len(self.problems) >= self.limits.errors:
            return None
        if "${{" in word:
            return self.problem(at, "An expression is not allowed here")
        return self.problem(at, f"Unexpected {what} {word[:100]!r}" + _nearest(word, valid))

    def missing(self, at: Any, key: str, what: str) -> None:
        """Note a required key that is not there."""
        self.problem(at, f"{what} needs {key!r}")

    def mapping(self, value: Any, at: Any) -> Map | None:
        """The value if it is a mapping, else a problem."""
        if type(value) is Map:
            return value
        if type(value) is Seq:
            self.problem(at, "A sequence was not expected; a mapping was")
        elif isinstance(value, str) and "${{" in value:
            self.problem(at, "An expression is not allowed here; a mapping was expected")
        else:
            self.problem(at, f"Unexpected value {to_text(value)[:100]!r}; a mapping was expected")
        return None

    def sequence(self, value: Any, at: Any) -> Seq | None:
        """The value if it is a sequence, else a problem."""
        if type(value) is Seq:
            return value
        if type(value) is Map:
            self.problem(at, "A mapping was not expected; a sequence was")
        elif isinstance(value, str) and "${{" in value:
            self.problem(at, "An expression is not allowed here; a sequence was expected")
        else:
            self.problem(at, f"Unexpected value {to_text(value)[:100]!r}; a sequence was expected")
        return None

    def expressions(self, text: str, at: Any, scope: Scope) -> bool:
        """Check the expressions in a text; whether they are well formed and use only what the scope has."""
        if not scope.contexts:
            self.problem(at, "An expression is not allowed here")
            return False
        # Nothing but `${{ context.property }}` in a text: the names are all there is to check.
        simple = len(text) < _SHORT and _PATHS_ONLY.fullmatch(text) is not None
        if simple and scope.contexts.issuperset(map(str.lower, _PATHS.findall(text))):
            return True
        try:
            parts = templated(text, self.limits.expression, self.limits.expression_depth).expressions
        except ExpressionError as wrong:
            self.problem(at, str(wrong))
            return False
        fine = [self.names(part, at, scope) for part in parts]
        return all(fine)

    def names(self, code: Compiled, at: Any, scope: Scope) -> bool:
        """Check that an expression uses only the contexts and functions of its scope."""
        fine = True
        for name, (written, offset) in code.names.items():
            if name not in scope.contexts:
                fine = False
                reason = "cannot be used here" if known_context(name) else "is no context"
                self.problem(
                    at,
                    f"{written[:100]!r} {reason} (position {offset + 1} of {code.text[:200]!r}); "
                    f"this key may use {', '.join(sorted(scope.contexts))}"
                    + ("" if known_context(name) else _nearest(name, scope.contexts)),
                )
        for name, (written, offset) in code.calls.items():
            if name not in BUILTIN and name not in scope.functions:
                fine = False
                reason = "cannot be called here" if known_function(name) else "is no function"
                self.problem(
                    at,
                    f"{written[:100]!r} {reason} (position {offset + 1} of {code.text[:200]!r})"
                    + ("" if known_function(name) else _nearest(name, BUILTIN | scope.functions)),
                )
        return fine


def _nearest(word: str, valid: Iterable[str]) -> str:
    import difflib

    found = difflib.get_close_matches(word[:60].lower(), list(valid), 1, 0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def place(at: Any) -> Place:
    """Where a parser event stands."""
    mark = at.start_mark
    return Place(mark.line + 1, mark.column + 1)
