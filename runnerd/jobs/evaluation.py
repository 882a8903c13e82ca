"""Evaluates expressions while a job runs, where `hashFiles` has to look into the machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from runnerd.workflow import ExpressionError

T = TypeVar("T")
Functions = Mapping[str, Callable[..., Any]]
HashFiles = Callable[[tuple[str, ...]], Awaitable[str]]

_HASHES = 20
"""Different sets of files one expression may ask for."""


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

    Evaluation is pure and cannot wait, so a call whose answer is not known yet ends it; the answer is
    fetched, and the evaluation starts over. Raises `ExpressionError`, also after too many of these.
    """
    known: dict[tuple[str, ...], str] = {}
    for _ in range(_HASHES + 1):
        missing: list[tuple[str, ...]] = []

        def look_up(*patterns: object, missing: list[tuple[str, ...]] = missing) -> str:
            key = tuple(str(pattern) for pattern in patterns)
            if key not in known:
                missing.append(key)
                raise ExpressionError("hashFiles has no answer yet")
            return known[key]

        try:
            return compute({**functions, "hashFiles": look_up})
        except ExpressionError:
            if not missing:
                raise
        known[missing[0]] = await hash_files(missing[0])
    raise ExpressionError(f"hashFiles is called for more than {_HASHES} different sets of files")
