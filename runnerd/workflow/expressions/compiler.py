"""A tree of an expression to one Python closure, compiled once and evaluated often."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runnerd.workflow.expressions.functions import (
    FUNCTIONS,
    STATUS_FUNCTIONS,
    SUPPLIED_FUNCTIONS,
    Budget,
    format_text,
)
from runnerd.workflow.expressions.nodes import Call, Compare, Index, Literal, Logical, Named, Node, Not
from runnerd.workflow.expressions.parser import parse
from runnerd.workflow.expressions.values import (
    Filtered,
    equal,
    fold,
    is_primitive,
    less,
    to_number,
    to_text,
    truthy,
)
from runnerd.workflow.model import ExpressionError

CONTEXTS = frozenset(
    (
        "github",
        "env",
        "vars",
        "job",
        "jobs",
        "steps",
        "runner",
        "secrets",
        "strategy",
        "matrix",
        "needs",
        "inputs",
    )
)
"""Every context GitHub has; one that the caller does not supply is null."""
BUILTIN = frozenset(FUNCTIONS) | {"format", "case"}
_MAX_INDEX = 2**31 - 1

Function = Callable[..., Any]


class Scope:
    """What one evaluation sees: contexts, the caller's functions by lower-cased name, and its budget."""

    __slots__ = ("budget", "contexts", "functions")

    def __init__(self, contexts: Mapping[str, Any], functions: Mapping[str, Function], memory: int) -> None:
        self.contexts, self.functions, self.budget = contexts, functions, Budget(memory)


Code = Callable[[Scope], Any]


class Compiled:
    """One expression ready to run, and what it refers to."""

    __slots__ = ("calls", "code", "names", "status", "text")

    def __init__(self, text: str, depth: int) -> None:
        self.text = text
        self.names: dict[str, tuple[str, int]] = {}
        """Contexts by lower-cased name: as first written, and where."""
        self.calls: dict[str, tuple[str, int]] = {}
        """Functions, likewise."""
        self.code: Code = self._compile(parse(text, depth=depth))
        self.status = not STATUS_FUNCTIONS.isdisjoint(self.calls)
        """Whether a status function appears, so that no `success()` is implied."""

    def run(self, scope: Scope) -> Any:
        """The expression's value; raises `ExpressionError`."""
        self._check(scope)
        return self.code(scope)

    def _check(self, scope: Scope) -> None:
        for name, (written, offset) in self.names.items():
            if name not in CONTEXTS and name not in scope.contexts and written not in scope.contexts:
                if any(fold(each) == fold(name) for each in scope.contexts):
                    continue
                raise ExpressionError(
                    f"Unrecognized named-value: '{written[:100]}'", text=self.text, offset=offset
                )
        for name, (written, offset) in self.calls.items():
            if name in scope.functions or name in BUILTIN:
                continue
            problem = (
                f"The function '{written}' is not available here"
                if name in SUPPLIED_FUNCTIONS
                else f"Unrecognized function: '{written[:100]}'"
            )
            raise ExpressionError(problem, text=self.text, offset=offset)

    def _compile(self, node: Node) -> Code:
        if isinstance(node, Literal):
            value = node.value
            return lambda scope: value
        if isinstance(node, Named):
            return self._named(node)
        if isinstance(node, Index):
            return self._index(node)
        if isinstance(node, Not):
            operand = self._compile(node.operand)
            return lambda scope: not truthy(operand(scope))
        if isinstance(node, Compare):
            return _COMPARE[node.operator](self._compile(node.left), self._compile(node.right))
        if isinstance(node, Logical):
            operands = [self._compile(each) for each in node.operands]
            return _logical(operands[:-1], operands[-1], node.operator == "||")
        assert isinstance(node, Call)
        return self._call(node)

    def _named(self, node: Named) -> Code:
        written, name = node.name, node.name.lower()
        self.names.setdefault(name, (written, node.offset))

        def read(scope: Scope) -> Any:
            contexts = scope.contexts
            if name in contexts:
                return contexts[name]
            return member(contexts, written)

        return read

    def _index(self, node: Index) -> Code:
        target = self._compile(node.target)
        if node.key is None:
            return lambda scope: _spread(target(scope), scope.budget)
        exact = isinstance(node.target, Named) and node.target.name.lower() == "env"
        if isinstance(node.key, Literal) and type(node.key.value) is str:
            key = node.key.value

            def read(scope: Scope) -> Any:
                value = target(scope)
                if type(value) is dict:
                    if key in value:
                        return value[key]
                    return None if exact else member(value, key)
                return _item(value, key, scope.budget, exact)

            return read
        index = self._compile(node.key)
        return lambda scope: _item(target(scope), index(scope), scope.budget, exact)

    def _call(self, node: Call) -> Code:
        name, offset = node.name.lower(), node.offset
        self.calls.setdefault(name, (node.name, offset))
        arguments = [self._compile(each) for each in node.arguments]
        if name == "case":
            run = _case(arguments)
        elif name == "format":
            run = _format(arguments)
        elif name in FUNCTIONS:
            function = FUNCTIONS[name]
            run = lambda scope: function([each(scope) for each in arguments], scope.budget)  # noqa: E731
        else:
            run = lambda scope: scope.functions[name](*[each(scope) for each in arguments])  # noqa: E731

        def call(scope: Scope) -> Any:
            try:
                return run(scope)
            except ExpressionError as wrong:
                if not wrong.text:
                    wrong.text, wrong.offset = self.text, offset
                raise

        return call


def _logical(head: Sequence[Code], tail: Code, stop: bool) -> Code:
    """`&&` (stop on false) or `||` (stop on true): the value of the operand that decides."""

    def run(scope: Scope) -> Any:
        for operand in head:
            value = operand(scope)
            if truthy(value) is stop:
                return value
        return tail(scope)

    return run


_COMPARE: dict[str, Callable[[Code, Code], Code]] = {
    "==": lambda left, right: lambda scope: equal(left(scope), right(scope)),
    "!=": lambda left, right: lambda scope: not equal(left(scope), right(scope)),
    "<": lambda left, right: lambda scope: less(left(scope), right(scope)),
    ">": lambda left, right: lambda scope: _greater(left(scope), right(scope)),
    "<=": lambda left, right: lambda scope: _at_most(left(scope), right(scope)),
    ">=": lambda left, right: lambda scope: _at_least(left(scope), right(scope)),
}


def _at_most(left: Any, right: Any) -> bool:
    return equal(left, right) or less(left, right)


def _greater(left: Any, right: Any) -> bool:
    return less(right, left)


def _at_least(left: Any, right: Any) -> bool:
    return equal(left, right) or less(right, left)


def _case(arguments: Sequence[Code]) -> Code:
    branches = list(zip(arguments[:-1:2], arguments[1::2], strict=True))
    default = arguments[-1]

    def run(scope: Scope) -> Any:
        for predicate, value in branches:
            answer = predicate(scope)
            if type(answer) is not bool:
                raise ExpressionError("case predicate must evaluate to a boolean value")
            if answer:
                return value(scope)
        return default(scope)

    return run


def _format(arguments: Sequence[Code]) -> Code:
    """Arguments are evaluated when the text refers to them, as GitHub does."""
    pattern, values = arguments[0], arguments[1:]
    return lambda scope: format_text(
        to_text(pattern(scope)), lambda index: values[index](scope), len(values), scope.budget
    )


def member(value: Mapping[str, Any], key: str) -> Any:
    """A property by its name, exactly or else without case; null where there is none."""
    if key in value:
        return value[key]
    folded = fold(key)
    for name in value:
        if len(name) == len(key) and fold(name) == folded:
            return value[name]
    return None


def _item(value: Any, key: Any, budget: Budget, exact: bool = False) -> Any:
    """`value[key]`; null for what is not there and for what cannot be indexed."""
    if isinstance(value, Filtered):
        budget.take(len(value))
        found = Filtered()
        for each in value:
            has, inner = _find(each, key, False)
            if has:
                found.append(inner)
        return found
    return _find(value, key, exact)[1]


def _find(value: Any, key: Any, exact: bool) -> tuple[bool, Any]:
    if isinstance(value, Mapping):
        if not is_primitive(key):
            return False, None
        name = to_text(key)
        if name in value:
            return True, value[name]
        if not exact:
            folded = fold(name)
            for each in value:
                if len(each) == len(name) and fold(each) == folded:
                    return True, value[each]
        return False, None
    if isinstance(value, list | tuple):
        number = to_number(key)
        if number >= 0 and number <= _MAX_INDEX and math.floor(number) < len(value):
            return True, value[math.floor(number)]
    return False, None


def _spread(value: Any, budget: Budget) -> Filtered:
    """`value.*`: every item, or every item of every item of a filtered array."""
    found = Filtered()
    for each in value if isinstance(value, Filtered) else (value,):
        items: Sequence[Any] = ()
        if isinstance(each, Mapping):
            items = list(each.values())
        elif isinstance(each, list | tuple):
            items = each
        budget.take(len(items))
        found.extend(items)
    return found


@functools.lru_cache(maxsize=1024)
def compiled(text: str, length: int = 21_000, depth: int = 50) -> Compiled:
    """The compiled form of a bare expression, from a cache.

    Raises `ExpressionError` for a text that is too long, too deep or no expression.
    """
    if len(text) > length:
        raise ExpressionError(f"Exceeded max expression length {length}", text=text[:1000])
    return Compiled(text, depth)
