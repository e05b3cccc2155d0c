"""Layout 10: titles of projects, who annotated and for how long, and what reviewers said."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """What earlier releases did not keep is noted when their projects are read again."""
    op.add_column("projects", sa.Column("title", sa.String, nullable=False, server_default=""))
    op.add_column("annotations", sa.Column("annotator", WIDE))
    op.add_column("annotations", sa.Column("lead_time", sa.Double))
    op.add_column("annotations", sa.Column("created_at", sa.DateTime))
    op.create_table(
        "annotators",
        sa.Column("project_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("annotator", WIDE, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, nullable=False),
    )
    op.create_table(
        "reviews",
        sa.Column(
            "annotation_id",
            WIDE,
            sa.ForeignKey("annotations.id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("made_at", sa.DateTime, nullable=False),
    )
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (10)")
