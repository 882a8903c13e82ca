"""Reading `strategy`: the matrix as plain data, `fail-fast`, `max-parallel`."""

from __future__ import annotations

from typing import Any

from runnerd.workflow.expressions.values import to_text
from runnerd.workflow.model import Strategy
from runnerd.workflow.reader.scalars import boolean, number, single
from runnerd.workflow.reader.scope import STRATEGY, Scope
from runnerd.workflow.reader.source import Field, Source, Table, place
from runnerd.workflow.yaml import Map, Seq


def strategy(source: Source, value: Any, at: Any, scope: Scope) -> Strategy | None:
    """A mapping, or one expression that gives it (kept in `matrix` with its outer key)."""
    if type(value) is str and "${{" in value:
        _whole(source, value, at, scope)
        source.cannot(at, "a `strategy` given by an expression as a whole is not supported: write its keys")
        return None
    found = source.mapping(value, at)
    if found is None:
        return None
    read = source.fields(found, _STRATEGY, "key of strategy")
    limit = read.get("max_parallel")
    if isinstance(limit, int | float) and limit < 1:
        source.problem(found.values_at["max-parallel"], "max-parallel must be at least 1")
    return Strategy(**read, place=place(at))


def _whole(source: Source, value: str, at: Any, scope: Scope) -> None:
    if source.expressions(value, at, scope) and not single(source, value):
        source.problem(at, "Unexpected text around an expression; it must be the whole value")


def _matrix(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    if type(value) is str and "${{" in value:
        _whole(source, value, at, scope)
        return value
    found = source.mapping(value, at)
    if found is None:
        return None
    for name, vector in found.items():
        where = found.values_at[name]
        if not name or "${{" in name:
            source.unexpected(found.keys_at[name], name, (), "name")
        elif type(vector) is str and "${{" in vector:
            _whole(source, vector, where, scope)
        elif type(vector) is not Seq:
            source.sequence(vector, where)
        elif name in ("include", "exclude"):
            _filter(source, vector, scope)
        else:
            if not vector:
                source.problem(where, f"Matrix vector {name[:100]!r} does not contain any values")
            _plain(source, vector, scope)
    _exclude_keys(source, found)
    return plain(found)


def _filter(source: Source, items: Seq, scope: Scope) -> None:
    for item, at in zip(items, items.items_at, strict=True):
        if type(item) is str and "${{" in item:
            _whole(source, item, at, scope)
        elif source.mapping(item, at) is not None:
            _plain(source, item, scope)


def _exclude_keys(source: Source, matrix: Map) -> None:
    """A key of `exclude` that no vector has can never match; GitHub refuses it."""
    items = matrix.get("exclude")
    if type(items) is not Seq or any(type(each) is str for each in matrix.values()):
        return
    for item in items:
        for key in item if type(item) is Map else ():
            if key not in matrix or key in ("include", "exclude"):
                source.problem(
                    item.keys_at[key],
                    f"Matrix exclude key {key[:100]!r} does not match any key within the matrix",
                )


def _plain(source: Source, value: Any, scope: Scope) -> None:
    """Check the expressions anywhere in a value of any shape."""
    if type(value) is Map:
        for key, each in value.items():
            _check(source, each, value.values_at[key], scope)
    elif type(value) is Seq:
        for each, at in zip(value, value.items_at, strict=True):
            _check(source, each, at, scope)


def _check(source: Source, value: Any, at: Any, scope: Scope) -> None:
    if type(value) is str:
        if "${{" in value:
            source.expressions(value, at, scope)
    else:
        _plain(source, value, scope)


def plain(value: Any) -> Any:
    """A YAML value without its places: dicts, lists and scalars."""
    if type(value) is Map:
        return {key: plain(each) for key, each in value.items()}
    if type(value) is Seq:
        return [plain(each) for each in value]
    return value if isinstance(value, str | int | float) or value is None else to_text(value)


_STRATEGY: Table = {
    "matrix": Field("matrix", _matrix, STRATEGY),
    "fail-fast": Field("fail_fast", boolean, STRATEGY),
    "max-parallel": Field("max_parallel", number, STRATEGY),
}
