"""Why a condition came out as it did: its expression as a tree of operands, each with its value.

What short-circuiting left out is marked; nothing is evaluated that the condition itself would not evaluate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerd.workflow.expressions.compiler import Code, Compiled, Function, Scope
from runnerd.workflow.expressions.nodes import Call, Compare, Index, Literal, Logical, Named, Node, Not
from runnerd.workflow.expressions.template import bare
from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.model import ExpressionError, Limits, Scalar

SHOWN = 200
"""Characters of a value that are shown."""
_LIMITS = Limits()
_SECRET = ("secrets", "token")


class Operand(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an expression: as written, what it came to, and the parts it was made of."""

    text: str
    value: str | None
    """As JSON-like text; None where it was not evaluated."""
    operands: tuple[Operand, ...] = ()


def trace(
    text: Scalar,
    contexts: Mapping[str, Any],
    *,
    functions: Mapping[str, Function] | None = None,
    limits: Limits = _LIMITS,
) -> Operand | None:
    """The tree of an `if`; None where there is nothing to show (no `if`, or text around an expression).

    Raises `ExpressionError` for a text that is no expression; a fault while evaluating is a value that says
    so. `secrets` and tokens are never shown.
    """
    written = bare(to_text(text).strip()).strip()
    if not written or "${{" in written:
        return None
    if len(written) > limits.expression:
        raise ExpressionError(f"Exceeded max expression length {limits.expression}", text=written[:1000])
    folded = {name.lower(): function for name, function in (functions or {}).items()}
    code = _Traced(written, limits.expression_depth)
    try:
        code.run(Scope(contexts, folded, limits.memory))
    except ExpressionError as wrong:
        return Operand(text=written, value=f"error: {wrong}", operands=code.tree().operands)
    return code.tree()


class _Traced(Compiled):
    """An expression that notes the value of every part that is evaluated."""

    __slots__ = ("root", "seen")

    root: Node
    seen: dict[int, Any]

    def __init__(self, text: str, depth: int) -> None:
        self.seen = {}
        super().__init__(text, depth)

    def _compile(self, node: Node) -> Code:
        inner = super()._compile(node)
        self.root = node  # the outermost is the last to be compiled
        seen, key = self.seen, id(node)

        def run(scope: Scope) -> Any:
            value = seen[key] = inner(scope)
            return value

        return run

    def tree(self) -> Operand:
        """The expression as it was evaluated."""
        return self._operand(self.root)

    def _operand(self, node: Node) -> Operand:
        value = None
        if id(node) in self.seen:
            value = "***" if _is_secret(node) else shown(self.seen[id(node)])
        parts = tuple(self._operand(part) for part in _parts(node) if not isinstance(part, Literal))
        return Operand(text=written(node), value=value, operands=parts)


def _parts(node: Node) -> list[Node]:
    """What a person asks the value of; a path like `github.ref` is one thing."""
    if isinstance(node, Logical):
        return node.operands
    if isinstance(node, Compare):
        return [node.left, node.right]
    if isinstance(node, Not):
        return [node.operand]
    return node.arguments if isinstance(node, Call) else []


def _is_secret(node: Node) -> bool:
    """Whether a part names a secret anywhere, so that neither it nor what is made of it is shown."""
    if isinstance(node, Named):
        return node.name.lower() in _SECRET
    if isinstance(node, Index):
        key = node.key
        named = isinstance(key, Literal) and to_text(key.value).lower() in _SECRET
        return named or _is_secret(node.target) or (key is not None and _is_secret(key))
    # A comparison tells no more than true or false; a function may give back what it was given.
    return isinstance(node, Call | Logical) and any(map(_is_secret, _parts(node)))


def written(node: Node) -> str:
    """A part as an expression, in one spelling."""
    if isinstance(node, Literal):
        return "'" + node.value.replace("'", "''") + "'" if isinstance(node.value, str) else shown(node.value)
    if isinstance(node, Named):
        return node.name
    if isinstance(node, Index):
        key = node.key
        if key is None:
            return f"{written(node.target)}.*"
        if (
            isinstance(key, Literal)
            and isinstance(key.value, str)
            and key.value.replace("-", "_").isidentifier()
        ):
            return f"{written(node.target)}.{key.value}"
        return f"{written(node.target)}[{written(key)}]"
    if isinstance(node, Not):
        return f"!{_inside(node.operand)}"
    if isinstance(node, Compare):
        return f"{_inside(node.left)} {node.operator} {_inside(node.right)}"
    if isinstance(node, Logical):
        return f" {node.operator} ".join(map(_inside, node.operands))
    assert isinstance(node, Call)
    return f"{node.name}({', '.join(map(written, node.arguments))})"


def _inside(node: Node) -> str:
    return f"({written(node)})" if isinstance(node, Logical | Compare) else written(node)


def shown(value: Any) -> str:
    """A value for people: scalars as written, of anything larger what it is."""
    if isinstance(value, Mapping):
        return "an object" if value else "an empty object"
    if isinstance(value, list | tuple):
        return f"an array of {len(value)}"
    if isinstance(value, str):
        text = value.replace("'", "''")
        return f"'{text[:SHOWN]}{'…' if len(text) > SHOWN else ''}'"
    return "null" if value is None else to_text(value)
