"""Layout 5: jobs that name their subject, deliveries, known tasks, and the memory of interactive calls."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(sa.Text(), "postgresql")


def upgrade() -> None:
    """Databases of layout 4 may have some of the tables already."""
    for column in (
        sa.Column("expression", sa.Text),
        sa.Column("version", sa.String),
        sa.Column("frames", WIDE),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
    ):
        op.add_column("jobs", column)
    op.create_table(
        "deliveries",
        sa.Column("project_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("task_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("version", sa.String, primary_key=True),
        sa.Column("data", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "tasks",
        sa.Column("project_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("task_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("data", JSON, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "steering",
        sa.Column("project_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("task_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("annotator", WIDE, primary_key=True, autoincrement=False),
        sa.Column("side", sa.String, primary_key=True),
        sa.Column("state", JSON, nullable=False),
        sa.Column("changed_at", sa.DateTime, nullable=False),
        if_not_exists=True,
    )
