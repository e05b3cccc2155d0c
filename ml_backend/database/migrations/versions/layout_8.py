"""Layout 8: what is set aside with its error; deliveries that wait with back-off; versions that the gate kept back."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Nothing was set aside before: an event whose handler failed counted as dispatched, and is not known any more."""
    op.create_table(
        "set_aside",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("project_id", WIDE),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
        sa.UniqueConstraint("kind", "source"),
    )
    op.create_index("ix_set_aside_project_id", "set_aside", ["project_id"])
    op.add_column("deliveries", sa.Column("attempts", WIDE, nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("error", sa.Text))
    op.add_column("deliveries", sa.Column("retry_at", sa.DateTime))
    op.add_column("deliveries", sa.Column("refused", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column(
        "prompt_versions", sa.Column("kept_back", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.execute(
        "UPDATE prompt_versions SET kept_back = TRUE "
        "WHERE refinement_id IN (SELECT id FROM refinements WHERE state = 'kept back')"
    )
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (8)")
