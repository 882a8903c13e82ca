"""The journal of machines tells their whole life: stages, times, who had them and why they ended."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("ALTER TABLE machines RENAME COLUMN state TO stage")
    op.execute("UPDATE machines SET stage = 'building'")
    op.add_column("machines", sa.Column("made", sa.Float, nullable=False, server_default="0"))
    for name in ("warm", "leased", "asked", "ended"):
        op.add_column("machines", sa.Column(name, sa.Float))
    op.add_column("machines", sa.Column("why", sa.Text, nullable=False, server_default=""))
    op.create_index("machines_by_end", "machines", ["ended"])
    op.create_index("machines_by_job", "machines", ["job"])
