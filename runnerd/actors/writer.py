"""Commits what everybody writes to the ledger: the sink of all actors, first to start, last to drain."""

from __future__ import annotations

import trio

from runnerd.store.ledger import Ledger


class WriterActor:
    """The ledger's one writer. It is drained by `Ledger.close`; writes wait while it is restarted."""

    name = "writer"

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit writes until the ledger was closed and all that waited is durable."""
        await self._ledger.serve_writes(task_status=task_status)
