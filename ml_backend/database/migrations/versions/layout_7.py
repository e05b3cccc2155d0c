"""Layout 7: annotations with Label Studio's star and a hash of what they show, to be read anew by instance."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Every annotation is read anew at the next look at its project: regions of one label may be several instances.

    Corrections whose annotation says the same as before keep their revision, and what completion made of them.
    """
    op.add_column(
        "annotations", sa.Column("ground_truth", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column("annotations", sa.Column("content", sa.String, nullable=False, server_default=""))
    op.execute("UPDATE annotations SET digest = ''")
    op.execute("DELETE FROM schema_version")
    op.execute("INSERT INTO schema_version (version) VALUES (7)")
