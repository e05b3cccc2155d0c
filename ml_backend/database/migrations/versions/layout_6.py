"""Layout 6, the first with Alembic: events that are dispatched before they are processed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(sa.Text(), "postgresql")


def upgrade() -> None:
    """Events of before were dispatched when they came. Databases of layout 5 may lack a table."""
    op.create_table(
        "submitted_steering",
        sa.Column("annotation_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("side", sa.String, primary_key=True),
        sa.Column("project_id", WIDE, nullable=False),
        sa.Column("task_id", WIDE, nullable=False),
        sa.Column("annotator", WIDE, nullable=False),
        sa.Column("state", JSON, nullable=False),
        sa.Column("submitted_at", sa.DateTime, nullable=False),
        if_not_exists=True,
    )
    op.add_column("events", sa.Column("dispatched_at", sa.DateTime))
    op.execute("UPDATE events SET dispatched_at = received_at")
    op.create_index("ix_events_dispatched_at", "events", ["dispatched_at"])
    # Releases before this one look here, and refuse what is newer than they are.
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (6)")
