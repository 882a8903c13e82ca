"""What the ledger holds beside runs and jobs, as data: deliveries, owed reports, machines."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec

from runnerd.model import Repository


class DeliveryState(enum.StrEnum):
    """How far a delivery came; HELD and PENDING are not final."""

    HELD = "held"
    """A body that came before under another id: it waits for the forge to say that it sent both."""
    PENDING = "pending"
    IGNORED = "ignored"
    REJECTED = "rejected"
    PLANNED = "planned"


Repeated = Literal["hold", "remark", "fine"]
"""What a body means that came before under another id, for the id is outside the signature: it is held until
the forge was asked, taken with a remark where nobody can be, or taken because the forge itself gave it."""


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
    repeated: Repeated = "remark"


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
    remark: str
    """What people should know about how it came; empty for most."""


class Intake(msgspec.Struct, frozen=True, kw_only=True):
    """How far one of the forge's delivery lists was read; times in seconds since the epoch."""

    source: str
    begun: float
    """When the daemon first looked at it: what was before is not its business."""
    read_to: float
    """Whatever the forge delivered before this time is in the ledger, but for the gap."""
    gap_from: float | None = None
    gap_to: float | None = None
    """Between these the daemon was away for longer than the forge remembers its deliveries."""
    problem: str = ""
    """Why the list could not be read the last time."""


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


class Stage(enum.StrEnum):
    """Where a machine is in its life, as the journal tells it."""

    BUILDING = "building"
    WARM = "warm"
    LEASED = "leased"
    LEAVING = "leaving"
    """Being destroyed."""
    GONE = "gone"


class MachineNews(msgspec.Struct, frozen=True, kw_only=True):
    """What is about to become of a machine; what is None is not known, or as it was."""

    id: str
    driver: str
    image: str
    stage: Stage
    pid: int | None = None
    """Of the process that is the machine; None until it was started."""
    uid: int | None = None
    started: float | None = None
    """The process's start, in seconds since the host booted."""
    job: int | None = None
    waited: float = 0.0
    """Seconds that the job had waited for it when it was leased."""
    why: str = ""
    """Why it ends: the first word about that stays, but for one that comes with its end."""


class MachineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One machine in the journal; times in seconds since the epoch, but for `started`."""

    id: str
    driver: str
    image: str
    stage: Stage
    pid: int | None = None
    uid: int | None = None
    started: float = 0.0
    job: int | None = None
    """The job that had it, and under which epoch; the epoch is None until the job has begun on it."""
    epoch: int | None = None
    made: float = 0.0
    warm: float | None = None
    leased: float | None = None
    asked: float | None = None
    """When that job asked for a machine."""
    ended: float | None = None
    why: str = ""


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule of a workflow on a default branch; `looked` and `fired` are minutes since the epoch."""

    repository: Repository
    path: str
    cron: str
    zone: str
    looked: int
    """The last minute for which it was decided whether to start."""
    fired: int | None = None
    """The minute of the last start."""
