"""What the ledger holds beside runs and jobs, as data: deliveries, owed reports, machines."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec


class DeliveryState(enum.StrEnum):
    """How far a delivery came; only PENDING is not final."""

    PENDING = "pending"
    IGNORED = "ignored"
    REJECTED = "rejected"
    PLANNED = "planned"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook as it arrived, its signature already verified."""

    id: str
    event: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes
    received: float
    """Seconds since the epoch."""
    repository: str = ""
    hook_id: str = ""


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger's `deliveries`."""

    id: str
    event: str
    headers: Mapping[str, str]
    body: bytes
    received: float
    repository: str
    hook_id: str
    state: DeliveryState
    reason: str
    """Why it was ignored or rejected."""
    attempts: int
    """How often planning it was begun; see `Ledger.try_delivery`."""


class Kind(enum.StrEnum):
    """What a report is about."""

    JOB = "job"
    RUN = "run"
    COMMENT = "comment"


class ReportState(enum.StrEnum):
    """How far the reported thing has come; COMPLETED is the terminal report."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """One report that is owed. What it says is read from the run and the job when it is sent."""

    id: int
    run: int
    job: int | None
    kind: Kind
    state: ReportState
    attempts: int
    created: float


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The reports that are owed, at a glance; times in seconds since the epoch, None when none is."""

    owed: int
    oldest: float | None = None
    """When the one that waits longest was written down."""
    due: float | None = None
    """When that one is tried next."""
    problem: str = ""
    """Why the last one that was put off was."""


class MachineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that exists or may exist."""

    id: str
    driver: str
    image: str
    state: str
    pid: int | None
    """Of the process that is the machine; None until it was started."""
    uid: int | None
    started: float
    job: int | None = None
    epoch: int | None = None
