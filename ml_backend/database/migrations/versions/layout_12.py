"""Layout 12: whether the score of a proposal is a confidence or a rank score."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Of the proposals of before it is not known."""
    op.add_column("proposals", sa.Column("calibrated", sa.Boolean))
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (12)")
