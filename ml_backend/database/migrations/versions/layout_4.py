"""Layout 4: projects that say when they are refined and by which version they were predicted anew."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Neither is known of the projects so far."""
    op.add_column("projects", sa.Column("min_annotations", WIDE))
    op.add_column("projects", sa.Column("repredicted", sa.String))
