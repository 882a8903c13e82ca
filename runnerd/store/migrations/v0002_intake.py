"""What intake remembers: a body's hash, to know it again, and how far the delivery lists were read."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("sha256", sa.Text, nullable=False, server_default=""))
    op.add_column("deliveries", sa.Column("remark", sa.Text, nullable=False, server_default=""))
    op.create_index("deliveries_by_body", "deliveries", ["sha256"])
    op.create_index("deliveries_by_repository", "deliveries", ["repository"])
    op.create_table(
        "intake",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("begun", sa.Float, nullable=False),
        sa.Column("read_to", sa.Float, nullable=False),
        sa.Column("gap_from", sa.Float),
        sa.Column("gap_to", sa.Float),
        sa.Column("problem", sa.Text, nullable=False),
    )
