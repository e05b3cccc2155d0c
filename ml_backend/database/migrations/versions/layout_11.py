"""Layout 11: deliveries of expressions that annotators typed, beside those of the tasks' own."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(sa.Text(), "postgresql")
KEPT = "project_id, task_id, version, data, created_at, attempts, error, retry_at, refused"


def upgrade() -> None:
    """The deliveries of before are of the tasks' own expressions. SQLite changes no key, so the table is made anew."""
    op.create_table(
        "new_deliveries",
        sa.Column("project_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("task_id", WIDE, primary_key=True, autoincrement=False),
        sa.Column("version", sa.String, primary_key=True),
        sa.Column("typed", sa.String, primary_key=True),
        sa.Column("data", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("attempts", WIDE, nullable=False, server_default="0"),
        sa.Column("error", sa.Text),
        sa.Column("retry_at", sa.DateTime),
        sa.Column("refused", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.execute(f"INSERT INTO new_deliveries ({KEPT}, typed) SELECT {KEPT}, '' FROM deliveries")
    op.drop_table("deliveries")
    op.rename_table("new_deliveries", "deliveries")
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (11)")
