"""The nouns everybody shares: deliveries, events, runs, jobs, steps and how they end.

Plain frozen data without behaviour that needs the outside; imports nothing of runnerd.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec


class Outcome(enum.StrEnum):
    """How a run, a job or a step ended. Only a received exit status 0 makes a `SUCCESS`."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    TIMED_OUT = "timed_out"
    STARTUP_FAILURE = "startup_failure"
    """The job could not be started as written: bad expression, unknown label, no steps, unsupported key."""
    LOST = "lost"
    """The machine or the daemon died under the job; nobody knows how it would have ended."""
    INFRA_ERROR = "infra_error"
    """The daemon's own side failed: no machine, no git, no exit status."""

    @property
    def green(self) -> bool:
        """Whether nothing went wrong: succeeded, or skipped as GitHub would skip."""
        return self in (Outcome.SUCCESS, Outcome.SKIPPED)

    @property
    def retryable(self) -> bool:
        """Whether the fault was ours, so that another attempt may be made by itself."""
        return self in (Outcome.LOST, Outcome.INFRA_ERROR)


class Phase(enum.StrEnum):
    """Where a run or a job is in its life; `PHASES` says which step may follow which."""

    WAITING = "waiting"
    """A job whose needs have not ended."""
    QUEUED = "queued"
    """May start; waits for a machine."""
    RUNNING = "running"
    DONE = "done"
    """Ended, with an outcome; final for this attempt."""


PHASES: dict[Phase, frozenset[Phase]] = {
    Phase.WAITING: frozenset({Phase.QUEUED, Phase.DONE}),
    Phase.QUEUED: frozenset({Phase.RUNNING, Phase.DONE}),
    Phase.RUNNING: frozenset({Phase.QUEUED, Phase.DONE}),
    Phase.DONE: frozenset(),
}
"""RUNNING goes back to QUEUED only by a retry of a `lost` or `infra_error` attempt, under a new epoch."""


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """A repository as the forge names it; `id` is the forge's number and survives a rename."""

    id: int
    full_name: str
    default_branch: str = "main"
    private: bool = False
    html_url: str = ""

    @property
    def owner(self) -> str:
        """The part before the slash."""
        return self.full_name.partition("/")[0]

    @property
    def name(self) -> str:
        """The part after the slash."""
        return self.full_name.partition("/")[2]


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """An account at the forge, authenticated by it."""

    id: int
    login: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery says happened, in the daemon's own terms. Everything in it is untrusted text.

    `sha` and `ref` are what GITHUB_SHA and GITHUB_REF will be; `report_sha` is the commit that gets
    the statuses (a pull request's head). For a pull request `sha` is empty until its merge ref was read.
    """

    delivery: str
    name: str
    action: str | None = None
    repository: Repository
    sender: Actor
    sha: str = ""
    ref: str = ""
    report_sha: str = ""
    before: str | None = None
    """The tip a push started from; None for other events and for a new branch."""
    head_ref: str = ""
    base_ref: str = ""
    base_sha: str = ""
    number: int | None = None
    """The pull request's number."""
    fork: bool = False
    """The code comes from another repository than the one that runs it."""
    inputs: dict[str, Any] = msgspec.field(default_factory=dict)
    """`workflow_dispatch` inputs as sent."""
    workflow: str | None = None
    """The only workflow file this event may start (`workflow_dispatch`)."""
    message: str = ""
    """The head commit's message, for skip markers."""
    remark: str = ""
    """What people are told of the delivery itself: that nobody could confirm a repeated one (I2)."""
    payload: dict[str, Any] = msgspec.field(default_factory=dict)
    """The whole payload: `github.event`."""


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """One `::error`, `::warning` or `::notice` of a step."""

    level: str
    message: str
    title: str = ""
    path: str = ""
    line: int | None = None
    end_line: int | None = None
    column: int | None = None
    end_column: int | None = None
    step: int = 0


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One step as it ended. `conclusion` is `outcome` after `continue-on-error`."""

    number: int
    """From 1, in the order shown to people; the set-up of the job is not a step."""
    id: str
    name: str
    outcome: Outcome
    conclusion: Outcome
    exit_code: int | None = None
    started: float | None = None
    """Seconds since the epoch; None when the step was skipped."""
    ended: float | None = None
    reason: str = ""
    """Why it was skipped, failed to start or was stopped; empty when its exit status says it all."""


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt of a job came to, secrets already masked in every field."""

    outcome: Outcome
    reason: str = ""
    outputs: dict[str, str] = msgspec.field(default_factory=dict)
    steps: tuple[StepResult, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    summary: str = ""
    """The step summaries, joined, as Markdown."""
    not_kept: str = ""
    """Why no machine of it was kept, or none from before the step that failed; empty where one was."""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """Who let a stranger's run start, for which commit, and what they might in the repository then."""

    sha: str
    login: str
    id: int = 0
    """The forge's number of the account; 0 where it was the host's operator."""
    permission: str


class CalledFile(msgspec.Struct, frozen=True, kw_only=True):
    """A reusable workflow as it was when the run was planned; restarts and reruns use the same text."""

    source: str
    """sha256 of its text, which the ledger keeps."""
    repository: str
    path: str
    ref: str
    sha: str
    """The commit that `ref` named."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger's `runs`: one workflow file started by one delivery."""

    id: int
    delivery: str
    repository: str
    workflow_path: str
    workflow_name: str
    title: str
    """`run-name`, or the commit's first line."""
    source: str
    """sha256 of the workflow file's text, which the ledger keeps."""
    event: Event
    """As it was planned: with `sha` resolved and without the payload, which the delivery keeps."""
    called: dict[str, CalledFile] = msgspec.field(default_factory=dict)
    """The reusable workflows it may call, by the name `uses` gives them from the first file."""
    number: int
    """GITHUB_RUN_NUMBER: counts per repository and workflow file, from 1."""
    attempt: int = 1
    phase: Phase = Phase.QUEUED
    outcome: Outcome | None = None
    reason: str = ""
    cancel_requested: bool = False
    gate: str = ""
    """Why it may not start before somebody approves it; stays when somebody has."""
    approval: Approval | None = None
    created: float = 0.0
    started: float | None = None
    ended: float | None = None

    @property
    def held(self) -> bool:
        """Whether it waits for approval."""
        return bool(self.gate) and self.approval is None


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger's `jobs`: one job, or one leg of its matrix, of one run.

    A job whose legs are not known yet (its matrix needs another job's output) is one row with `leg` -1.
    """

    id: int
    run: int
    key: str
    """The job's id in the workflow file."""
    leg: int = 0
    legs: int = 1
    name: str
    """As GitHub shows it, with the leg's values."""
    labels: tuple[str, ...] = ()
    matrix: dict[str, Any] | None = None
    phase: Phase = Phase.WAITING
    outcome: Outcome | None = None
    allowed_to_fail: bool = False
    """`continue-on-error` held for this leg: the run and the jobs that need it see success."""
    reason: str = ""
    epoch: int = 0
    """Counts attempts; a write with an older epoch is refused (I6)."""
    step_started: bool = False
    outputs: dict[str, str] = msgspec.field(default_factory=dict)
    steps: tuple[StepResult, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    summary: str = ""
    machine: str = ""
    boot_id: str = ""
    machine_id: str = ""
    queued: float | None = None
    started: float | None = None
    ended: float | None = None
    resumes: str = ""
    """`JOB/STEP`: it goes on as that job was before that step, in a machine that was kept then."""
    carried: str = ""
    """`RUN/JOB`: it did not run in this attempt of its run, and stands here as it ended in that one."""
    not_kept: str = ""
    """See `JobResult.not_kept`; empty also where it is not known."""

    @property
    def logged(self) -> tuple[int, int]:
        """The run and the job under whose numbers its log lies."""
        run, _, job = self.carried.partition("/")
        return (int(run), int(job)) if job else (self.run, self.id)


def status_name(workflow: str, job: str) -> str:
    """The name of a check or status at the forge: `runnerd / WORKFLOW / JOB (LEG)`."""
    return f"runnerd / {workflow} / {job}"


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's word that the pool starts nothing; `since` in seconds since the epoch."""

    reason: str
    """In the operator's words; may be empty."""
    since: float


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at: `good`, a `warning` (works, but), or a `problem`; with its cure."""

    about: str
    verdict: Literal["good", "warning", "problem"]
    found: str
    cure: str = ""
