"""Reusable workflows and concurrency groups: what a run calls, and who waits for whom."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("runs", sa.Column("called", sa.Text, nullable=False, server_default="{}"))
    op.create_table(
        "calls",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("leg", sa.Integer, primary_key=True),
        sa.Column("legs", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("matrix", sa.Text),
        sa.Column("inputs", sa.Text, nullable=False),
    )
    op.create_table(
        "members",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("repository_id", sa.BigInteger, nullable=False),
        sa.Column("group", sa.Text, nullable=False),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("leg", sa.Integer, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("cancels", sa.Boolean, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("standing", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.UniqueConstraint("run", "key", "leg", name="one_membership"),
        sqlite_autoincrement=True,
    )
    op.create_index("members_by_group", "members", ["repository_id", "group", "standing"])
