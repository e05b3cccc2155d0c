"""Layout 1, of the first release: events, projects, jobs, proposals and prompt versions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(sa.Text(), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table("schema_version", sa.Column("version", WIDE, primary_key=True))
    op.create_table(
        "events",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("received_at", sa.DateTime, nullable=False),
        sa.Column("action", sa.String, nullable=False, index=True),
        sa.Column("project_id", WIDE, index=True),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_table(
        "projects",
        sa.Column("id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("uid", sa.String, nullable=False),
        sa.Column("label_config", sa.Text, nullable=False),
        sa.Column("hostname", sa.String, nullable=False),
        sa.Column("extra_params", JSON, nullable=False),
        sa.Column("last_seen", sa.DateTime, nullable=False),
    )
    _create_jobs()
    _create_prompt_versions()
    _create_proposals()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False, index=True),
        sa.Column("project_id", WIDE, index=True),
        sa.Column("task_id", WIDE),
        sa.Column("state", sa.String(20), nullable=False, index=True),
        sa.Column("priority", WIDE, nullable=False),
        sa.Column("stage", sa.String, nullable=False),
        sa.Column("fraction", sa.Double, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("attempts", WIDE, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("finished_at", sa.DateTime),
    )


def _create_prompt_versions() -> None:
    op.create_table(
        "prompt_versions",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("project_id", WIDE, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("parent_id", WIDE, sa.ForeignKey("prompt_versions.id")),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("project_id", "name"),
    )


def _create_proposals() -> None:
    op.create_table(
        "proposals",
        sa.Column("id", WIDE, primary_key=True),
        sa.Column("project_id", WIDE, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("task_id", WIDE, nullable=False),
        sa.Column("media_digest", sa.String, nullable=False),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("project_id", "task_id", "media_digest", "expression", "version"),
        sa.Index("ix_proposals_content", "media_digest", "expression", "version"),
    )
