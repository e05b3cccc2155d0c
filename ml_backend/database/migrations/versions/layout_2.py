"""Layout 2: corrections, and events that are processed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Events of layout 1 were only kept: they are processed from now on."""
    op.add_column("events", sa.Column("processed_at", sa.DateTime))
    op.add_column("events", sa.Column("error", sa.Text))
    op.create_index("ix_events_processed_at", "events", ["processed_at"])
    op.create_table(
        "annotations",
        sa.Column("id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("project_id", WIDE, index=True),
        sa.Column("task_id", WIDE, index=True),
        sa.Column("updated_at", sa.DateTime),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("cancelled", sa.Boolean, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
    )
    op.create_table("deleted_tasks", sa.Column("id", WIDE, primary_key=True, autoincrement=False))
    op.create_table(
        "corrections",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("project_id", WIDE, nullable=False),
        sa.Column("task_id", WIDE, nullable=False),
        sa.Column("annotation_id", WIDE, sa.ForeignKey("annotations.id"), nullable=False),
        sa.Column("object", sa.String, nullable=False),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("problem", sa.String),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", WIDE, nullable=False),
        sa.Column("verdict", sa.String),
        sa.Column("touched", sa.Boolean, nullable=False),
        sa.Column("decided", sa.LargeBinary, nullable=False),
        sa.Column("completed", sa.LargeBinary),
        sa.Column("propagated", sa.Boolean, nullable=False),
        sa.Column("revision", sa.String, nullable=False),
        sa.Column("changed_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("annotation_id", "object"),
        sa.Index("ix_corrections_project_state", "project_id", "state"),
    )
