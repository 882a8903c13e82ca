"""Tokens of one expression to its tree; iterative, so that no nesting of brackets can exhaust the stack."""

from __future__ import annotations

from typing import NamedTuple

from runnerd.workflow.expressions.lexer import Token, tokenize, unexpected
from runnerd.workflow.expressions.nodes import Call, Compare, Index, Literal, Logical, Named, Node, Not
from runnerd.workflow.model import ExpressionError

_PRECEDENCE = {"||": 1, "&&": 2, "==": 3, "!=": 3, "<": 4, "<=": 4, ">": 4, ">=": 4, "!": 5}
_ARITY: dict[str, tuple[int, int]] = {
    "contains": (2, 2),
    "startswith": (2, 2),
    "endswith": (2, 2),
    "format": (1, 255),
    "join": (1, 2),
    "tojson": (1, 1),
    "fromjson": (1, 1),
    "case": (3, 255),
    "hashfiles": (1, 255),
    "always": (0, 0),
    "cancelled": (0, 0),
    "success": (0, 255),
    "failure": (0, 255),
}


class _Open(NamedTuple):
    """An operator or an open bracket waiting on the stack; `base` is where a call's arguments start."""

    symbol: str
    token: Token
    base: int = 0


def parse(text: str, *, depth: int = 50) -> Node:
    """The tree of `text`.

    Raises `ExpressionError`, its offset at the symbol that cannot stand where it stands.
    """
    return _Parser(text, depth).parse()


class _Parser:
    def __init__(self, text: str, depth: int) -> None:
        self._text, self._depth = text, depth
        self._tokens = tokenize(text)
        self._at = 0
        self._operands: list[Node] = []
        self._open: list[_Open] = []

    def parse(self) -> Node:
        if len(self._tokens) == 1:
            raise ExpressionError("An expression was expected", text=self._text, offset=len(self._text))
        while True:
            self._operand()
            if self._operators():
                return self._operands[0]

    def _operand(self) -> None:
        """Read prefixes and brackets up to and including one value."""
        while True:
            token = self._take()
            kind = token.kind
            if kind in ("string", "number", "keyword"):
                return self._operands.append(Literal(token.value))
            if kind == "name":
                if self._tokens[self._at].kind != "(":
                    return self._operands.append(Named(token.text, token.offset))
                self._at += 1
                self._open.append(_Open("call", token, len(self._operands)))
                if self._tokens[self._at].kind == ")":
                    self._at += 1
                    return self._close_call(self._open.pop())
            elif kind == "!" or kind == "(":
                self._open.append(_Open(kind, token))
            else:
                raise self._wrong(token)

    def _operators(self) -> bool:
        """Read what follows a value; False when another value must come, True at the end."""
        while True:
            token = self._take()
            kind = token.kind
            if kind == ".":
                self._property()
            elif kind == "[":
                if not self._wildcard():
                    self._open.append(_Open("[", token))
                    return False
            elif kind in _PRECEDENCE and kind != "!":
                self._reduce(_PRECEDENCE[kind])
                self._open.append(_Open(kind, token))
                return False
            elif kind == ",":
                self._reduce(0)
                if not self._open or self._open[-1].symbol != "call":
                    raise self._wrong(token)
                return False
            elif kind == ")" or kind == "]":
                self._close(token)
            elif kind == "end":
                self._reduce(0)
                if self._open:
                    raise self._wrong(token)
                return True
            else:
                raise self._wrong(token)

    def _property(self) -> None:
        token = self._take()
        if token.kind == "*":
            self._push(Index(self._operands.pop(), None))
        elif token.kind == "name":
            self._push(Index(self._operands.pop(), Literal(token.text)))
        else:
            raise self._wrong(token)

    def _wildcard(self) -> bool:
        if self._tokens[self._at].kind != "*":
            return False
        self._at += 1
        closing = self._take()
        if closing.kind != "]":
            raise self._wrong(closing)
        self._push(Index(self._operands.pop(), None))
        return True

    def _close(self, token: Token) -> None:
        self._reduce(0)
        opened = self._open.pop() if self._open else None
        if token.kind == "]" and opened is not None and opened.symbol == "[":
            key = self._operands.pop()
            self._push(Index(self._operands.pop(), key))
        elif token.kind == ")" and opened is not None and opened.symbol == "call":
            self._close_call(opened)
        elif not (token.kind == ")" and opened is not None and opened.symbol == "("):
            raise self._wrong(token)

    def _close_call(self, opened: _Open) -> None:
        name = opened.token.text
        arguments = self._operands[opened.base :]
        del self._operands[opened.base :]
        least, most = _ARITY.get(name.lower(), (0, 255))
        problem = ""
        if len(arguments) < least:
            problem = f"Too few parameters supplied: '{name[:100]}' takes at least {least}"
        elif len(arguments) > most:
            problem = f"Too many parameters supplied: '{name[:100]}' takes at most {most}"
        elif name.lower() == "case" and len(arguments) % 2 == 0:
            problem = "Even number of parameters supplied: 'case' takes predicates with values and a default"
        if problem:
            raise ExpressionError(problem, text=self._text, offset=opened.token.offset)
        self._push(Call(name, opened.token.offset, arguments))

    def _reduce(self, precedence: int) -> None:
        """Apply waiting operators that bind at least as strongly; 0 applies all up to the open bracket."""
        while self._open:
            symbol = self._open[-1].symbol
            if _PRECEDENCE.get(symbol, -1) < max(precedence, 1):
                return
            self._open.pop()
            right = self._operands.pop()
            if symbol == "!":
                self._push(Not(right))
            elif symbol in ("&&", "||"):
                self._push(Logical(symbol, self._operands.pop(), right))
            else:
                self._push(Compare(symbol, self._operands.pop(), right))

    def _push(self, node: Node) -> None:
        if node.depth > self._depth:
            raise ExpressionError(
                f"Exceeded max expression depth {self._depth}", text=self._text, offset=self._last().offset
            )
        self._operands.append(node)

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _last(self) -> Token:
        return self._tokens[max(self._at - 1, 0)]

    def _wrong(self, token: Token) -> ExpressionError:
        if token.kind != "end":
            return unexpected(self._text, token.offset, token.text)
        last = self._tokens[self._at - 2]
        return ExpressionError(
            f"Unexpected end of expression after '{last.text[:100]}' at position {last.offset + 1}",
            text=self._text,
            offset=last.offset,
        )
