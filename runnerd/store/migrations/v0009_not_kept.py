"""Why no machine of a job was kept."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("not_kept", sa.Text, nullable=False, server_default=""))
