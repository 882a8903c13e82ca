"""The ledger's tables. What must be unique is unique here, so that no caller can make it otherwise (I2)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from runnerd.model import (
    Annotation,
    Approval,
    CalledFile,
    Event,
    Outcome,
    Phase,
    Repository,
    StepResult,
)
from runnerd.store.changes import NewJob
from runnerd.store.columns import Clean, Json, Word
from runnerd.store.records import DeliveryState, Kind, ReportState, Stage
from runnerd.workflow.concurrency import Standing

metadata = sa.MetaData()

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", Clean, primary_key=True),
    sa.Column("event", Clean, nullable=False),
    sa.Column("headers", Json(dict[str, str]), nullable=False),
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("repository", Clean, nullable=False),
    sa.Column("hook_id", Clean, nullable=False),
    sa.Column("state", Word(DeliveryState), nullable=False),
    sa.Column("reason", Clean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    # Empty for those stored by the first version.
    sa.Column("sha256", sa.Text, nullable=False, server_default=""),
    sa.Column("remark", Clean, nullable=False, server_default=""),
    sa.Index("deliveries_by_state", "state", "received", "id"),
    sa.Index("deliveries_by_body", "sha256"),
    sa.Index("deliveries_by_repository", "repository"),
)

intake = sa.Table(
    "intake",
    metadata,
    sa.Column("source", Clean, primary_key=True),
    sa.Column("begun", sa.Float, nullable=False),
    sa.Column("read_to", sa.Float, nullable=False),
    sa.Column("gap_from", sa.Float),
    sa.Column("gap_to", sa.Float),
    sa.Column("problem", Clean, nullable=False),
)
"""How far each of the forge's delivery lists was read."""

notes = sa.Table(
    "notes",
    metadata,
    sa.Column("delivery", sa.ForeignKey("deliveries.id"), primary_key=True),
    sa.Column("path", Clean, primary_key=True),
    sa.Column("matched", sa.Boolean, nullable=False),
    sa.Column("reason", Clean, nullable=False),
)

sources = sa.Table(
    "sources",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("text", Clean, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("delivery", sa.ForeignKey("deliveries.id"), nullable=False),
    sa.Column("repository", Clean, nullable=False),
    # The forge's own number: it survives a rename, so that run numbers go on counting.
    sa.Column("repository_id", sa.BigInteger, nullable=False),
    sa.Column("workflow_path", Clean, nullable=False),
    sa.Column("workflow_name", Clean, nullable=False),
    sa.Column("title", Clean, nullable=False),
    sa.Column("source", sa.ForeignKey("sources.sha256"), nullable=False),
    sa.Column("event", Json(Event), nullable=False),
    sa.Column("called", Json(dict[str, CalledFile]), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("phase", Word(Phase), nullable=False),
    sa.Column("outcome", Word(Outcome)),
    sa.Column("reason", Clean, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("gate", Clean, nullable=False, server_default=""),
    sa.Column("approval", Json(Approval)),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    # The jobs as they were planned, for another attempt.
    sa.Column("plan", Json(tuple[NewJob, ...]), nullable=False),
    sa.UniqueConstraint("delivery", "workflow_path", "attempt", name="one_run_per_workflow"),
    sa.UniqueConstraint("repository_id", "workflow_path", "number", "attempt", name="run_numbers"),
    sa.Index("runs_by_phase", "phase", "id"),
    sa.Index("runs_by_repository", "repository", "id"),
    sqlite_autoincrement=True,  # ids name log files: never used twice
)

calls = sa.Table(
    "calls",
    metadata,
    sa.Column("run", sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("key", Clean, primary_key=True),
    sa.Column("leg", sa.Integer, primary_key=True),
    sa.Column("legs", sa.Integer, nullable=False),
    sa.Column("name", Clean, nullable=False),
    sa.Column("matrix", Json(dict[str, Any])),
    sa.Column("inputs", Json(dict[str, Any]), nullable=False),
)

members = sa.Table(
    "members",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("repository_id", sa.BigInteger, nullable=False),
    # The concurrency group's name as groups are compared, and as it was written.
    sa.Column("group", Clean, nullable=False),
    sa.Column("shown", Clean, nullable=False),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False),
    sa.Column("key", Clean, nullable=False),
    sa.Column("leg", sa.Integer, nullable=False),
    sa.Column("who", Clean, nullable=False),
    sa.Column("cancels", sa.Boolean, nullable=False),
    sa.Column("queue", Clean, nullable=False),
    sa.Column("standing", Word(Standing), nullable=False),
    sa.Column("reason", Clean, nullable=False),
    sa.UniqueConstraint("run", "key", "leg", name="one_membership"),
    sa.Index("members_by_group", "repository_id", "group", "standing"),
    sqlite_autoincrement=True,
)
"""Who came to which concurrency group, and how it stands."""

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("key", Clean, nullable=False),
    sa.Column("leg", sa.Integer, nullable=False),
    sa.Column("legs", sa.Integer, nullable=False),
    sa.Column("name", Clean, nullable=False),
    sa.Column("labels", Json(tuple[str, ...]), nullable=False),
    sa.Column("matrix", Json(dict[str, Any])),
    sa.Column("phase", Word(Phase), nullable=False),
    sa.Column("outcome", Word(Outcome)),
    sa.Column("allowed_to_fail", sa.Boolean, nullable=False),
    sa.Column("reason", Clean, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("step_started", sa.Boolean, nullable=False),
    sa.Column("outputs", Json(dict[str, str]), nullable=False),
    sa.Column("steps", Json(tuple[StepResult, ...]), nullable=False),
    sa.Column("annotations", Json(tuple[Annotation, ...]), nullable=False),
    sa.Column("summary", Clean, nullable=False),
    sa.Column("machine", Clean, nullable=False),
    sa.Column("boot_id", Clean, nullable=False),
    sa.Column("machine_id", Clean, nullable=False),
    sa.Column("queued", sa.Float),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("resumes", Clean, nullable=False, server_default=""),
    sa.Column("carried", Clean, nullable=False, server_default=""),
    sa.Column("not_kept", Clean, nullable=False, server_default=""),
    sa.UniqueConstraint("run", "key", "leg", name="one_row_per_leg"),
    sa.Index("jobs_by_phase", "phase", "id"),
    sqlite_autoincrement=True,
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False),
    sa.Column("job", sa.ForeignKey("jobs.id")),
    sa.Column("kind", Word(Kind), nullable=False),
    sa.Column("state", Word(ReportState), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("due", sa.Float, nullable=False),
    sa.Column("sent", sa.Float),
    sa.Column("error", Clean, nullable=False),
    sa.Index("outbox_by_subject", "run", "job", "kind"),
    sa.Index("outbox_by_due", "sent", "due", "id"),
    sqlite_autoincrement=True,
)

machines = sa.Table(
    "machines",
    metadata,
    sa.Column("id", Clean, primary_key=True),
    sa.Column("driver", Clean, nullable=False),
    sa.Column("image", Clean, nullable=False),
    sa.Column("stage", Word(Stage), nullable=False),
    sa.Column("pid", sa.Integer),
    sa.Column("uid", sa.Integer),
    # The process's start, in seconds since the host booted; every other time is since the epoch.
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("job", sa.Integer),
    sa.Column("epoch", sa.Integer),
    sa.Column("made", sa.Float, nullable=False, server_default="0"),
    sa.Column("warm", sa.Float),
    sa.Column("leased", sa.Float),
    # When the one that got it asked for a machine.
    sa.Column("asked", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("why", Clean, nullable=False, server_default=""),
    sa.Index("machines_by_end", "ended"),
    sa.Index("machines_by_job", "job"),
)
"""The journal of machines: all that exist or may, and those of the last hours."""

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("name", Clean, primary_key=True),
    sa.Column("path", Clean, primary_key=True),
    sa.Column("cron", Clean, primary_key=True),
    sa.Column("zone", Clean, primary_key=True),
    # The forge's number: under it a repository that was renamed is known again.
    sa.Column("repository_id", sa.BigInteger, nullable=False),
    sa.Column("repository", Json(Repository), nullable=False),
    # Minutes since the epoch: the last that was decided, and that of the last start.
    sa.Column("looked", sa.BigInteger, nullable=False),
    sa.Column("fired", sa.BigInteger),
)

pause = sa.Table(
    "pause",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("reason", Clean, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
)
"""One row while the operator has the pool paused."""

pulse = sa.Table(
    "pulse",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)
"""One row that `check_writable` writes, to learn whether the ledger can be written."""
