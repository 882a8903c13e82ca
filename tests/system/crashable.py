"""`runnerd serve` whose actors can be made to crash: each line of standard input names the one that does.

Run as `python crashable.py --config FILE`. The daemon is the real one; only its actors have one more task.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import trio

from runnerd import log
from runnerd.config import load

ACTORS = (
    "WriterActor",
    "ReporterActor",
    "PoolActor",
    "HealthActor",
    "ExecutorActor",
    "ControlActor",
    "ParserActor",
    "ReceiverActor",
)


class Told(Exception):
    """The crash that was asked for."""


class Crashes:
    """Which actors are told to crash, and the thread that listens for it."""

    def __init__(self) -> None:
        self._told: dict[str, trio.Event] = {}
        self._listening = False

    async def wait(self, name: str) -> None:
        """Raise when this actor is told to crash."""
        self._told[name] = trio.Event()
        if not self._listening:
            self._listening = True
            token = trio.lowlevel.current_trio_token()
            threading.Thread(target=self._listen, args=(token,), daemon=True).start()
        await self._told[name].wait()
        raise Told(f"the {name} was told to crash")

    def _listen(self, token: trio.lowlevel.TrioToken) -> None:
        for line in sys.stdin:
            token.run_sync_soon(self._told[line.strip()].set)


def crashable(actor: type[Any], crashes: Crashes) -> type[Any]:
    """The same actor with one more task, which raises when it is told to."""

    class Crashable(actor):  # type: ignore[misc]
        async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crashes.wait, self.name)
                await super().run(task_status=task_status)
                nursery.cancel_scope.cancel()

    return Crashable


def main() -> int:
    """Serve with crashable actors."""
    crashes = Crashes()
    wiring = importlib.import_module("runnerd.daemon.serve")
    for name in ACTORS:
        setattr(wiring, name, crashable(getattr(wiring, name), crashes))
    log.configure()
    return wiring.serve(load(Path(sys.argv[-1]), environ=os.environ))


if __name__ == "__main__":
    sys.exit(main())
