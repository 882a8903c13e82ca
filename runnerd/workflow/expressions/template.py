"""Text with `${{ }}` in it: where the expressions are, and the text or value they make of it.

What an expression gives is never read for expressions again.
"""

from __future__ import annotations

import functools
from typing import Any

from runnerd.workflow.expressions.compiler import Compiled, Scope, compiled
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.model import ExpressionError

_OPEN, _CLOSE = "${{", "}}"
_SLACK = 100
"""Braces and blanks around an expression that do not count against its length."""


class Template:
    """A text split into literal parts and compiled expressions."""

    __slots__ = ("parts", "single", "text")

    def __init__(self, text: str, length: int, depth: int) -> None:
        self.text = text
        if len(text) > length + _SLACK:
            raise _too_long(text, length)
        self.parts: list[str | Compiled] = []
        size = (
            10 + 2 * text.count("{") + text.count("'")
        )  # as GitHub counts: the text as one format(...) call
        for literal, expression, offset in _split(text):
            if literal:
                self.parts.append(literal)
                size += len(literal)
            if expression is not None:
                size += len(expression) + 7
                self.parts.append(_compile(expression, text, offset, length, depth))
        first = self.parts[0] if self.parts else None
        self.single = first if len(self.parts) == 1 and isinstance(first, Compiled) else None
        """The expression, where it is the whole text."""
        if self.single is None and size > length and any(isinstance(part, Compiled) for part in self.parts):
            raise _too_long(text, length)

    @property
    def expressions(self) -> list[Compiled]:
        """The expressions of the text, in their order."""
        return [part for part in self.parts if isinstance(part, Compiled)]

    def text_of(self, scope: Scope) -> str:
        """The text with every expression replaced by its value as text."""
        done: list[str] = []
        for part in self.parts:
            if isinstance(part, Compiled):
                piece = to_text(part.run(scope))
                scope.budget.take(len(piece))
                done.append(piece)
            else:
                done.append(part)
        return "".join(done)

    def value_of(self, scope: Scope) -> Any:
        """The typed value of the only expression, or the text."""
        return self.single.run(scope) if self.single is not None else self.text_of(scope)


def _too_long(text: str, length: int) -> ExpressionError:
    return ExpressionError(
        f"Exceeded max expression length {length}: a text with expressions counts as a whole",
        text=text[:1000],
    )


def _compile(expression: str, text: str, offset: int, length: int, depth: int) -> Compiled:
    try:
        return compiled(expression, length, depth)
    except ExpressionError as wrong:
        raise ExpressionError(str(wrong), text=text, offset=offset + wrong.offset) from None


def _split(text: str) -> list[tuple[str, str | None, int]]:
    """(literal before, expression or None at the end, offset of the expression)."""
    pieces: list[tuple[str, str | None, int]] = []
    at = 0
    while (start := text.find(_OPEN, at)) >= 0:
        inner = start + len(_OPEN)
        end = _end(text, inner)
        if end < 0:
            raise ExpressionError(
                "The expression is not closed: ${{ was found, but not the closing }}", text=text, offset=start
            )
        expression = text[inner:end]
        stripped = expression.strip()
        if not stripped:
            raise ExpressionError("An expression was expected", text=text, offset=inner)
        pieces.append((text[at:start], stripped, inner + expression.index(stripped)))
        at = end + len(_CLOSE)
    pieces.append((text[at:], None, len(text)))
    return pieces


def _end(text: str, at: int) -> int:
    """Where the `}}` stands that closes an expression; not one inside a string."""
    while True:
        end = text.find(_CLOSE, at)
        if end < 0:
            return -1
        quote = text.find("'", at, end)
        if quote < 0:
            return end
        closing = text.find("'", quote + 1)
        if closing < 0:
            return -1
        at = closing + 1


@functools.lru_cache(maxsize=1024)
def templated(text: str, length: int = 21_000, depth: int = 50) -> Template:
    """The compiled form of a text, from a cache.

    Raises `ExpressionError`, its offset in the whole text.
    """
    return Template(text, length, depth)


def bare(text: str) -> str:
    """The expression of a text that is one `${{ }}` as a whole, or the text itself."""
    if _OPEN not in text:
        return text
    pieces = _split(text.strip())
    if len(pieces) == 2 and not pieces[0][0] and not pieces[1][0]:
        return str(pieces[0][1])
    return text
