"""The first schema: deliveries, runs, jobs, the outbox and the journal of machines."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("received", sa.Float, nullable=False),
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("hook_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("deliveries_by_state", "deliveries", ["state", "received", "id"])
    op.create_table(
        "notes",
        sa.Column("delivery", sa.Text, sa.ForeignKey("deliveries.id"), primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("matched", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "sources",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("delivery", sa.Text, sa.ForeignKey("deliveries.id"), nullable=False),
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("repository_id", sa.BigInteger, nullable=False),
        sa.Column("workflow_path", sa.Text, nullable=False),
        sa.Column("workflow_name", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("source", sa.Text, sa.ForeignKey("sources.sha256"), nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("plan", sa.Text, nullable=False),
        sa.UniqueConstraint("delivery", "workflow_path", "attempt", name="one_run_per_workflow"),
        sa.UniqueConstraint("repository_id", "workflow_path", "number", "attempt", name="run_numbers"),
        sqlite_autoincrement=True,
    )
    op.create_index("runs_by_phase", "runs", ["phase", "id"])
    op.create_index("runs_by_repository", "runs", ["repository", "id"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("leg", sa.Integer, nullable=False),
        sa.Column("legs", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("matrix", sa.Text),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("allowed_to_fail", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("step_started", sa.Boolean, nullable=False),
        sa.Column("outputs", sa.Text, nullable=False),
        sa.Column("steps", sa.Text, nullable=False),
        sa.Column("annotations", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("machine_id", sa.Text, nullable=False),
        sa.Column("queued", sa.Float),
        sa.Column("started", sa.Float),
        sa.Column("ended", sa.Float),
        sa.UniqueConstraint("run", "key", "leg", name="one_row_per_leg"),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_by_phase", "jobs", ["phase", "id"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("job", sa.Integer, sa.ForeignKey("jobs.id")),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("due", sa.Float, nullable=False),
        sa.Column("sent", sa.Float),
        sa.Column("error", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_subject", "outbox", ["run", "job", "kind"])
    op.create_index("outbox_by_due", "outbox", ["sent", "due", "id"])
    op.create_table(
        "machines",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("driver", sa.Text, nullable=False),
        sa.Column("image", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer),
        sa.Column("uid", sa.Integer),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("job", sa.Integer),
        sa.Column("epoch", sa.Integer),
    )
    op.create_table(
        "pulse",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )
