"""Where a job goes on from, and which job of an earlier attempt it stands for."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("resumes", sa.Text, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("carried", sa.Text, nullable=False, server_default=""))
