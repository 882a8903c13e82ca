"""Which kept machines jobs wait to go on from: no limit may remove those."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from runnerd.model import JobRecord, Phase
from runnerd.store.ledger import Ledger


class Shelf(Protocol):
    """What is kept of jobs' machines."""

    awaited: frozenset[str]
    """What no limit removes, as `JobRecord.resumes` has it."""


def goes_on_from(rows: Iterable[JobRecord]) -> frozenset[str]:
    """What those of the jobs that have not ended go on from."""
    return frozenset(row.resumes for row in rows if row.resumes and row.phase is not Phase.DONE)


async def leave_awaited(shelf: Shelf, ledger: Ledger) -> None:
    """Have no limit remove what any job waits to go on from, and that alone any more."""
    before = shelf.awaited
    now = await ledger.awaited_machines()
    shelf.awaited = now | (shelf.awaited - before)  # what was made known while the ledger was read stays
