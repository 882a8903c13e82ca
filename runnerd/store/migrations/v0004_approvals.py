"""Runs that wait for approval, and who gave it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("runs", sa.Column("gate", sa.Text, nullable=False, server_default=""))
    op.add_column("runs", sa.Column("approval", sa.Text))
