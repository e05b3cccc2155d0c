"""Layout 3: prompt versions with their lineage, refinements, promotions and trials."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(sa.Text(), "postgresql")


def upgrade() -> None:
    """Earlier prompt versions came without lineage."""
    op.create_table(
        "refinements",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("project_id", WIDE, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("triggers", JSON, nullable=False),
        sa.Column("remembered", JSON, nullable=False),
        sa.Column("champion_id", WIDE),
        sa.Column("base_version", sa.String, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("done", WIDE, nullable=False),
        sa.Column("total", WIDE, nullable=False),
        sa.Column("notes", JSON, nullable=False),
        sa.Column("left_out", JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("finished_at", sa.DateTime),
    )
    op.create_table(
        "promotions",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("project_id", WIDE, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("version_id", WIDE, sa.ForeignKey("prompt_versions.id")),
        sa.Column("previous_id", WIDE, sa.ForeignKey("prompt_versions.id")),
        sa.Column("undone", sa.Boolean, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("refinement_id", WIDE, sa.ForeignKey("refinements.id"), nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("candidate", sa.Double, nullable=False),
        sa.Column("champion", sa.Double, nullable=False),
        sa.UniqueConstraint("refinement_id", "key"),
    )
    for column in (
        sa.Column("digest", sa.String, nullable=False, server_default=""),
        sa.Column("model", sa.String, nullable=False, server_default=""),
        sa.Column("origin", sa.String, nullable=False, server_default="refined"),
        sa.Column("data", JSON, nullable=False, server_default="[]"),
        sa.Column("curve", JSON, nullable=False, server_default="[]"),
    ):
        op.add_column("prompt_versions", column)
    # Written out: Alembic adds no column with a foreign key to SQLite.
    number = WIDE.compile(op.get_bind().dialect)
    op.execute(f"ALTER TABLE prompt_versions ADD COLUMN refinement_id {number} REFERENCES refinements (id)")
    op.add_column("proposals", sa.Column("margin", sa.Double))
