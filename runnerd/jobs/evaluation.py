"""Evaluates expressions while a job runs, where `hashFiles` has to look into the machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from runnerd.workflow import ExpressionError

T = TypeVar("T")
Functions = Mapping[str, Callable[..., Any]]
HashFiles = Callable[[tuple[str, ...]], Awaitable[str]]

_ROUNDS = 20


def status_functions(status: str) -> dict[str, Callable[..., bool]]:
    """Return `success`, `failure`, `cancelled` and `always` for a job's status so far."""
    return {
        "success": lambda *_: status == "success",
        "failure": lambda *_: status == "failure",
        "cancelled": lambda *_: status == "cancelled",
        "always": lambda *_: True,
    }


async def evaluated(compute: Callable[[Functions], T], functions: Functions, hash_files: HashFiles) -> T:
    """Return what `compute(functions)` gives once every `hashFiles` in it has its answer.

    Evaluation is pure and cannot wait, so it is repeated: a call whose answer is not known yet gives the
    empty text, the answer is fetched, and the evaluation starts over. Raises `ExpressionError`.
    """
    known: dict[tuple[str, ...], str] = {}
    for _ in range(_ROUNDS):
        missing: list[tuple[str, ...]] = []

        def look_up(*patterns: object, missing: list[tuple[str, ...]] = missing) -> str:
            key = tuple(str(pattern) for pattern in patterns)
            if key not in known:
                missing.append(key)
            return known.get(key, "")

        try:
            value = compute({**functions, "hashFiles": look_up})
        except ExpressionError:
            if not missing:
                raise
        else:
            if not missing:
                return value
        for key in missing:
            known[key] = await hash_files(key)
    raise ExpressionError(f"hashFiles was asked for other files {_ROUNDS} times over")
