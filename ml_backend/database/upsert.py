"""Insert or update: the one statement that SQL leaves to each database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from ml_backend.database.tables import Base


def upsert(
    session: Session,
    table: type[Base],
    rows: Sequence[Mapping[str, Any]],
    *,
    keys: Sequence[str],
    update: Sequence[str] = (),
) -> None:
    """Insert rows; where a row of the same keys is there, update some of its columns.

    Args:
        session: The transaction.
        table: Where to.
        rows: The columns of each row by name, the same for all.
        keys: The columns of a unique constraint.
        update: The columns that a row that is there takes over; where none is named, it stays as it is.
    """
    if not rows:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    if update:
        taken_over = {name: statement.excluded[name] for name in update}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=taken_over)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    session.execute(statement, [dict(row) for row in rows])
