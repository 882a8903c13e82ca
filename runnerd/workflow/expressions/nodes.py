"""The tree of an expression. Every node knows its depth, so that a tree too deep is never built."""

from __future__ import annotations

from typing import Any


class Node:
    """A part of an expression; `depth` is 1 for a leaf."""

    __slots__ = ("depth",)

    depth: int


class Literal(Node):
    """null, a boolean, a number or a string."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value, self.depth = value, 1


class Named(Node):
    """A context by its name as written."""

    __slots__ = ("name", "offset")

    def __init__(self, name: str, offset: int) -> None:
        self.name, self.offset, self.depth = name, offset, 1


class Index(Node):
    """`target.key` and `target[key]`; a `key` of None is `*`."""

    __slots__ = ("key", "target")

    def __init__(self, target: Node, key: Node | None) -> None:
        self.target, self.key = target, key
        self.depth = 1 + max(target.depth, key.depth if key else 1)


class Not(Node):
    """`!operand`."""

    __slots__ = ("operand",)

    def __init__(self, operand: Node) -> None:
        self.operand, self.depth = operand, 1 + operand.depth


class Compare(Node):
    """One of `== != < <= > >=`."""

    __slots__ = ("left", "operator", "right")

    def __init__(self, operator: str, left: Node, right: Node) -> None:
        self.operator, self.left, self.right = operator, left, right
        self.depth = 1 + max(left.depth, right.depth)


class Logical(Node):
    """`&&` or `||` over two or more operands; gives the operand that decides."""

    __slots__ = ("operands", "operator")

    def __init__(self, operator: str, left: Node, right: Node) -> None:
        self.operator = operator
        if isinstance(left, Logical) and left.operator == operator:
            left.operands.append(right)
            self.operands: list[Node] = left.operands
            self.depth = max(left.depth, 1 + right.depth)
        else:
            self.operands = [left, right]
            self.depth = 1 + max(left.depth, right.depth)


class Call(Node):
    """A function by its name as written, with its arguments."""

    __slots__ = ("arguments", "name", "offset")

    def __init__(self, name: str, offset: int, arguments: list[Node]) -> None:
        self.name, self.offset, self.arguments = name, offset, arguments
        self.depth = 1 + max((argument.depth for argument in arguments), default=0)
