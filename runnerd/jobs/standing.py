"""How a job stood before one of its steps: what is kept beside its machine, so that it can go on from there.

Secrets and the job's token are not in it: they are given anew. Where it is encrypted it knows their
values, only to mask them. What the job's own steps said is in it, and may hold whatever they were given.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runnerd.jobs.matchers import Matcher
from runnerd.jobs.state import Finish, Shown
from runnerd.model import Annotation, StepResult

FORMAT = 1


class BadStanding(Exception):
    """The bytes are no standing, or not one of this job; says why."""


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the background that has ended; `settled` when its effects show."""

    number: int
    finish: Finish
    settled: bool


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job before its step `before` (from 1), when no step was running."""

    format: int = FORMAT
    run: int
    job: int
    """The ledger's numbers of the run and of the job that it was."""
    before: int
    shown: Shown
    """What steps have made of the job's variables, paths and contexts."""
    masks: tuple[str, ...] = ()
    """Values the job added with `add-mask`; of a job that was given secrets those as well."""
    matchers: tuple[Matcher, ...] = ()
    """Its problem matchers, in the order they were added."""
    beside: tuple[Beside, ...] = ()
    results: tuple[StepResult, ...] = ()
    """Those of every step before."""
    annotations: tuple[Annotation, ...] = ()
    """Those of the steps."""
    summaries: Mapping[int, str] = {}
    """Each step's, masked."""
    excused: tuple[int, ...] = ()
    """Steps that a `cancel` stopped."""
    shells: Mapping[str, str] = {}
    """The programs that were found in the machine, and where."""
    used: bool = False
    """Whether the workspace may hold something."""

    def unfit(self, steps: int) -> str:
        """Why a job with so many steps cannot go on from here; empty when it can."""
        if not 1 <= self.before <= steps:
            return f"it is of before step {self.before}, and the job has {steps} steps"
        if [result.number for result in self.results] != list(range(1, self.before)):
            return f"it does not tell of every step before step {self.before}"
        if self.shown.status not in ("success", "failure"):
            return f"the job's status was {self.shown.status!r}"
        if not all(1 <= beside.number < self.before for beside in self.beside):
            return "it tells of steps in the background that had not begun"
        return ""


def encode(standing: Standing) -> bytes:
    """Return the bytes that `decode` reads."""
    return msgspec.json.encode(standing)


def decode(data: bytes) -> Standing:
    """Return what was encoded. Raises `BadStanding`, whatever the bytes are."""
    try:
        found = msgspec.json.decode(data, type=Standing)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadStanding(f"how the job stood cannot be read: {error}") from error
    if found.format != FORMAT:
        raise BadStanding("how the job stood was written by another version of runnerd")
    return found
