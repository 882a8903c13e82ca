"""A job's `strategy` to its legs: the combinations, their order and their names as GitHub makes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runnerd.workflow.expressions import value_of
from runnerd.workflow.expressions.values import equal, to_text
from runnerd.workflow.model import ExpressionError, Leg, Limits, Strategy

_LIMITS = Limits()
_NAME = 100
_COMPARISONS = 200_000


def expand_matrix(
    strategy: Strategy | None,
    contexts: Mapping[str, Any],
    *,
    job_name: str,
    limits: Limits = _LIMITS,
) -> list[Leg]:
    """The legs of a job, one without a matrix if there is none.

    Vectors multiply, the first key slowest; `exclude` takes combinations away; each `include` extends the
    combinations whose vector values it matches, and stands alone where it matches none.
    Raises `ExpressionError` for too many legs, and for what is no matrix once its expressions are known.
    """
    matrix = value_of(strategy.matrix, contexts, limits=limits) if strategy is not None else None
    if matrix is None or matrix == "":
        return [Leg(index=0, total=1, name=job_name)]
    if not isinstance(matrix, Mapping):
        raise ExpressionError(f"the matrix must be a mapping, not {to_text(matrix)[:100]!r}")
    try:
        return _legs(matrix, job_name, limits)
    except RecursionError:
        raise ExpressionError("the values of the matrix are nested too deeply") from None


def _legs(matrix: Mapping[str, Any], job_name: str, limits: Limits) -> list[Leg]:
    combinations = _combine(matrix, limits)
    if not combinations:
        return [Leg(index=0, total=1, name=job_name)]
    total = len(combinations)
    return [
        Leg(index=index, total=total, name=leg_name(job_name, values), matrix=combination)
        for index, (combination, values) in enumerate(combinations)
    ]


def leg_name(job_name: str, values: Sequence[Any]) -> str:
    """`job (a, b)` from the scalars in a leg's values, cut at 100 characters."""
    shown: list[str] = []
    length = 0
    for leaf in _leaves(values):
        if leaf:
            shown.append(leaf)
            length += len(leaf) + 2
        if length > _NAME:
            break
    leaves = ", ".join(shown)
    name = f"{job_name} ({leaves})" if leaves else job_name
    return name if len(name) <= _NAME else name[: _NAME - 3] + "..."


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield to_text(value)


def _combine(matrix: Mapping[str, Any], limits: Limits) -> list[tuple[dict[str, Any], list[Any]]]:
    """(the leg's matrix, the values that name it) for each leg in order."""
    vectors: dict[str, list[Any]] = {}
    for name, values in matrix.items():
        if name not in ("include", "exclude"):
            vectors[name] = _vector(name, values)
    include, exclude = _filters(matrix, "include"), _filters(matrix, "exclude")
    _check_size(vectors, len(include) + len(exclude), limits)
    legs: list[tuple[dict[str, Any], list[Any]]] = []
    unmatched = [True] * len(include)
    for values in itertools.product(*vectors.values()) if vectors else ():
        combination = dict(zip(vectors, values, strict=True))
        if any(_excludes(item, combination) for item in exclude):
            continue
        extended = dict(combination)
        for index, item in enumerate(include):
            if _extends(item, combination):
                unmatched[index] = False
                extended.update((key, value) for key, value in item.items() if key not in vectors)
        legs.append((extended, list(values)))
        if len(legs) > limits.legs:
            raise _too_many(limits)
    for item, alone in zip(include, unmatched, strict=True):
        if alone:
            legs.append((dict(item), list(item.values())))
    if len(legs) > limits.legs:
        raise _too_many(limits)
    return legs


def _check_size(vectors: Mapping[str, Sequence[Any]], filters: int, limits: Limits) -> None:
    """Bound the work before doing it: `exclude` may take away, but not from millions."""
    size = 1
    for values in vectors.values():
        size *= len(values)
        if size > 64 * limits.legs:
            raise _too_many(limits)
    if size * filters > _COMPARISONS:
        raise ExpressionError(
            f"{size} combinations with {filters} entries of include and exclude are too many"
        )


def _too_many(limits: Limits) -> ExpressionError:
    return ExpressionError(f"the matrix has more than {limits.legs} combinations")


def _vector(name: str, values: Any) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise ExpressionError(
            f"Matrix vector {name[:100]!r} must be a sequence, not {to_text(values)[:100]!r}"
        )
    if not values:
        raise ExpressionError(f"Matrix vector {name[:100]!r} does not contain any values")
    return list(values)


def _filters(matrix: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = matrix.get(key)
    if items is None or items == "":
        return []
    if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
        raise ExpressionError(f"{key!r} of the matrix must be a sequence of mappings")
    if len(items) > 1000:
        raise ExpressionError(f"{key!r} of the matrix has more than 1000 entries")
    return list(items)


def _excludes(item: Mapping[str, Any], combination: Mapping[str, Any]) -> bool:
    """All values of the entry match; a key that no vector has never matches."""
    return bool(item) and all(
        key in combination and _fits(value, combination[key]) for key, value in item.items()
    )


def _extends(item: Mapping[str, Any], combination: Mapping[str, Any]) -> bool:
    """All values of the entry that vectors have match, so that none is overwritten."""
    return all(key not in combination or _fits(value, combination[key]) for key, value in item.items())


def _fits(wanted: Any, found: Any) -> bool:
    """Whether every scalar in `wanted` is `==` the one at the same path in `found`."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _fits(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(wanted) <= len(found)
            and all(_fits(value, found[index]) for index, value in enumerate(wanted))
        )
    return not isinstance(found, Mapping | list | tuple) and equal(wanted, found)
