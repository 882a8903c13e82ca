"""What is kept of a job's machines, and of those that it went on from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import trio

from runnerd.model import JobRecord, Outcome, RunRecord
from runnerd.store.ledger import Ledger

_CHAIN = 50
"""Attempts that are looked through for a kept machine."""
UNKNOWN = (
    "whether they are kept says [snapshots] mode in config.toml; with on-failure it is the newest of a job "
    "that neither succeeded nor was cancelled, for as long as there is room, none of a fork's, and of a job "
    "that was given a secret or a token only with [snapshots] secrets"
)
"""Why nothing may be kept of a job, where the reason is not known."""


class Kept(Protocol):
    """A machine of a job as it was before a step."""

    @property
    def job(self) -> int:
        """The job whose machine it was."""
        ...

    @property
    def step(self) -> int:
        """The step's number."""
        ...

    @property
    def name(self) -> str:
        """The step's name."""
        ...


K = TypeVar("K", bound=Kept, covariant=True)
KeptOf = Callable[[int], Sequence[K]]
"""The machines that are kept of a job; blocks."""


async def kept_of(row: JobRecord, *, ledger: Ledger, kept: KeptOf[K]) -> dict[int, K]:
    """Return the kept machines in which a job can be gone back to, by the step they are from before.

    A job that did not run in this attempt has those of the one that did, and one that went on from
    another's machine has that one's for the steps before.
    """
    job = row.logged[1]
    there: dict[int, K] = {}
    below = 1 << 31
    for _ in range(_CHAIN):
        for each in await trio.to_thread.run_sync(kept, job):
            if each.step <= below:
                there.setdefault(each.step, each)
        before = await ledger.job(job)
        if before is None or not before.resumes:
            break
        job, below = (int(part) for part in before.resumes.split("/"))
    return dict(sorted(there.items()))


def why_none(run: RunRecord, row: JobRecord, mode: str) -> str:
    """Say why no machine of a job is kept, as far as its run, its row and [snapshots] `mode` tell."""
    if run.event.fork:
        return "the run is a fork's, and of those none ever is"
    if mode == "off":
        return "[snapshots] mode is off in config.toml, which keeps none"
    if not row.machine:
        return "it never began, so it never had one"
    if mode == "on-failure" and row.outcome in (Outcome.SUCCESS, Outcome.CANCELLED):
        how = "succeeded" if row.outcome is Outcome.SUCCESS else "was cancelled"
        return f"it {how}, and [snapshots] mode on-failure keeps none of such a job"
    if row.steps and not row.steps[0].conclusion.green:
        return "it failed in its first step, before which every machine is fresh"
    if len(row.steps) == 1 and row.outcome is Outcome.SUCCESS and not row.not_kept:
        return "it has one step, before which every machine is fresh"
    return row.not_kept or UNKNOWN
