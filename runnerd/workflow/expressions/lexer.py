"""Text of one expression to tokens with their offsets, as GitHub's lexer splits it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from runnerd.workflow.expressions.values import parse_number
from runnerd.workflow.model import ExpressionError

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<name>[a-zA-Z_][a-zA-Z0-9_-]*(?=[\s()\[\].,!><=&|]|$))"
    r"|(?P<string>'(?:[^']|'')*+')"
    r"|(?P<operator>&&|\|\||==|!=|<=|>=|[<>!()\[\],*])"
    r"|(?P<dot>\.)"
    r"|(?P<number>[-+.0-9](?:[^\s()\[\],!><=&|])*)"
)
_WORD = re.compile(r"'(?s:.)*|[^\s()\[\],!><&|=]+|[=&|][^\s()\[\],!><=&|]*|(?s:.)")
_KEYWORDS: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "NaN": float("nan"),
    "Infinity": float("inf"),
}
_AFTER_VALUE = frozenset(("name", "string", "number", "keyword", ")", "]", "*"))


class Token(NamedTuple):
    """One token: `kind` is an operator's own text, or name, keyword, string, number, end."""

    kind: str
    text: str
    offset: int
    value: Any = None


def unexpected(text: str, offset: int, symbol: str | None = None) -> ExpressionError:
    """The error for a symbol that cannot stand where it stands."""
    if symbol is None:
        found = _WORD.match(text, offset)
        symbol = found.group() if found else text[offset:]
    return ExpressionError(
        f"Unexpected symbol: '{symbol[:100]}' at position {offset + 1}", text=text, offset=offset
    )


def tokenize(text: str) -> list[Token]:
    """All tokens, ended by one of kind `end`.

    Raises `ExpressionError` at the first character that begins no token.
    """
    tokens: list[Token] = []
    offset, last, size, match = 0, "", len(text), _TOKEN.match
    while offset < size:
        found = match(text, offset)
        if found is None:
            raise unexpected(text, offset)
        kind, word = str(found.lastgroup), found.group()
        if kind == "space":
            offset = found.end()
            continue
        if kind == "dot" and last not in _AFTER_VALUE:
            kind, word = "number", _word(text, offset)  # `.5` after an operator, and what is no number at all
        value: Any = None
        if kind == "operator" or kind == "dot":
            kind = word
        elif kind == "string":
            value = word[1:-1].replace("''", "'")
        elif kind == "number":
            value = _number(text, offset, word, last)
        elif word in _KEYWORDS and last != ".":
            kind, value = "keyword", _KEYWORDS[word]
        tokens.append(Token(kind, word, offset, value))
        offset, last = offset + len(word), kind
    tokens.append(Token("end", "", size))
    return tokens


def _word(text: str, offset: int) -> str:
    found = _WORD.match(text, offset)
    return found.group() if found else text[offset:]


def _number(text: str, offset: int, word: str, last: str) -> float:
    if last == "." or (last in _AFTER_VALUE and word[0] in ".+-"):
        raise unexpected(text, offset, word)
    number = parse_number(word)
    if number != number:
        raise unexpected(text, offset, word)
    return number
