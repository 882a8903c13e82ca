"""What may be written to the ledger, as data: planned runs and jobs, and the changes of a run that lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerd.model import Event, JobResult, Outcome
from runnerd.workflow.model import Call

UNEXPANDED = -1
"""The `leg` of a job whose matrix is not known yet."""


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job, or one leg of its matrix, as planned; it starts its life WAITING.

    A job whose legs are not known yet has the leg `UNEXPANDED` and is replaced by `ExpandJob`.
    """

    key: str
    leg: int = 0
    legs: int = 1
    name: str
    labels: tuple[str, ...] = ()
    matrix: dict[str, Any] | None = None
    allowed_to_fail: bool = False


class NewCalled(msgspec.Struct, frozen=True, kw_only=True):
    """A reusable workflow of a new run, with its text."""

    name: str
    """As `uses` names it from the first file."""
    text: str
    repository: str
    path: str
    ref: str
    sha: str


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow file that a delivery starts. With an `outcome` it ends at birth and has no jobs."""

    workflow_path: str
    workflow_name: str
    title: str
    source_text: str
    event: Event
    """Its payload is not stored again: the delivery keeps it."""
    jobs: tuple[NewJob, ...] = ()
    """In the order of the file."""
    called: tuple[NewCalled, ...] = ()
    """Every reusable workflow that it may call."""
    outcome: Outcome | None = None
    reason: str = ""
    gate: str = ""
    """Why it may not start before somebody approves it."""


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs of a run that has ended run again in its next attempt; the others are carried over."""

    jobs: frozenset[int] = frozenset()
    """Those that run again as they were expanded, by the number they have in the run that has ended."""
    anew: tuple[NewJob, ...] = ()
    """Those that are expanded or make their calls once more, each in place of all its legs or called jobs."""
    resumes: Mapping[int, str] = msgspec.field(default_factory=dict)
    """Of which jobs the next attempt goes on from a step, as `JobRecord.resumes` has it."""


class WorkflowNote(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a delivery started a workflow file, and the sentence that says why or why not."""

    path: str
    matched: bool
    reason: str


class StartRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run begins; nothing when it runs already (its first claimed job began it)."""


class ExpandJob(msgspec.Struct, frozen=True, kw_only=True):
    """Replace a job's one row without legs by its legs, at least one, numbered from 0."""

    key: str
    legs: tuple[NewJob, ...]


class EnterCalls(msgspec.Struct, frozen=True, kw_only=True):
    """Record the calls of a job, and replace its one row by the jobs that they bring in, none with legs."""

    key: str
    calls: tuple[Call, ...]
    jobs: tuple[NewJob, ...]


class JoinGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Come to a concurrency group of the repository; nothing where it was come to before.

    `key` and `leg` say who comes: a job's leg, one call of a job (`leg` too), a called workflow (its calls'
    key with a slash), or the run (an empty key).
    """

    key: str
    leg: int
    group: str
    cancels: bool
    queue: str


class LeaveGroup(msgspec.Struct, frozen=True, kw_only=True):
    """What came to a group has ended."""

    key: str
    leg: int


class QueueJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job may start; it waits for a machine from `now` (seconds since the epoch)."""

    job: int
    now: float


class SkipJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job does not run, as GitHub would skip it."""

    job: int
    reason: str


class EndJob(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt `epoch` of a job ended; an attempt that never ran may only end without success.

    `allowed_to_fail` None leaves what was planned; a result without steps leaves the steps recorded.
    """

    job: int
    epoch: int
    result: JobResult
    allowed_to_fail: bool | None = None


class EndRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run ends; every job of it must have ended, at the latest by the same `apply`."""

    outcome: Outcome
    reason: str = ""


Change = StartRun | ExpandJob | EnterCalls | JoinGroup | LeaveGroup | QueueJob | SkipJob | EndJob | EndRun
