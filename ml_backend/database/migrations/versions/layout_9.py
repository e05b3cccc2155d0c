"""Layout 9: what proposals were worth on corrected tasks, and promotions that may be taken back by themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Promotions of before that name a refinement may be taken back by themselves; a person made the others."""
    op.add_column("projects", sa.Column("labelling_order", sa.String, nullable=False, server_default="off"))
    op.add_column("promotions", sa.Column("revocable", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("promotions", sa.Column("failed_because", sa.Text, nullable=False, server_default=""))
    op.execute("UPDATE promotions SET revocable = true WHERE made_by LIKE 'refinement %'")
    op.create_table(
        "observations",
        sa.Column("correction_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("version", sa.String, primary_key=True),
        sa.Column("revision", sa.String, nullable=False),
        sa.Column("project_id", WIDE, nullable=False),
        sa.Column("video", sa.String, nullable=False),
        sa.Column("shown", sa.Boolean, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("overlap", sa.Double, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
    )
    op.create_index("ix_observations_project_id", "observations", ["project_id"])
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (9)")
