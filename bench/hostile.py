"""How long the event loop stands still while the worst workflow files are read."""

from __future__ import annotations

import time
from collections.abc import Iterator

import trio

from bench.results import Figures
from runnerd.reading.process import SMALL, Reader
from runnerd.workflow.model import WorkflowErrors

HEAD = "on: push\njobs: {a: {runs-on: x, steps: [{run: x}]}}\n"
LIMIT = 1 << 20
READINGS = 3
EVERY = 0.001
"""Seconds between two looks at the clock."""


def corpus() -> Iterator[tuple[str, str]]:
    """The worst files by name: as large as they may be, and as dear as their kind can be."""
    yield "expressions", _filled(LIMIT)
    yield "small expressions", _filled(SMALL)
    yield "one long value", HEAD + "name: " + "x" * (LIMIT - len(HEAD) - 7)
    yield "many values", HEAD + "env:\n" + "".join(f"  K{n}: {n}\n" for n in range(9000))
    yield "broken flow", HEAD + "a: [http://x:80/, " + "[x, " * 60_000
    yield "small broken flow", HEAD + "a: [http://x:80/, " + "[x], " * 3000
    yield "many problems", HEAD + "".join(f"k{n}: 1\n" for n in range(9000))
    yield (
        "aliases",
        HEAD
        + "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{name}: &{name} [{','.join('*' + before for _ in range(9))}]\n"
            for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    )


def _filled(size: int) -> str:
    """Distinct expressions, which no cache knows, up to a size."""
    parts = [HEAD, "env:\n"]
    length, number = len(HEAD) + 5, 0
    while True:
        words = " && ".join(f"github.a{number}_{n} == 'x'" for n in range(18))
        line = f"  K{number}: ${{{{ {words} }}}}\n"
        if length + len(line) > size:
            return "".join(parts)
        parts.append(line)
        length, number = length + len(line), number + 1


async def lag(text: str, name: str) -> float:
    """Milliseconds by which the loop was late at worst while a file was read."""
    worst = 0.0
    async with trio.open_nursery() as nursery:

        async def watch(task_status: trio.TaskStatus[None]) -> None:
            nonlocal worst
            task_status.started()
            while True:
                before = time.perf_counter()
                await trio.sleep(EVERY)
                worst = max(worst, time.perf_counter() - before - EVERY)

        await nursery.start(watch)
        try:
            await Reader().load(text, name)
        except WorkflowErrors:
            pass  # most of them are refused
        nursery.cancel_scope.cancel()
    return worst * 1000


def measure() -> Figures:
    """The worst of the corpus, and which file it was."""

    async def every() -> dict[str, float]:
        found = {}
        for name, text in corpus():
            # What else the machine does only adds to it: the least of some readings is the file's own.
            found[name] = min([await lag(text, f"{name} {again}") for again in range(READINGS)])
        return found

    lags = trio.run(every)
    name = max(lags, key=lambda each: lags[each])
    return {
        "loop_lag_worst_file": {"unit": "ms", "value": round(lags[name], 3), "n": len(lags), "file": name}
    }
