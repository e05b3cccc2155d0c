"""A backend that ingests annotations of a Label Studio under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ml_backend.corrections.annotation_store import AnnotationStore
from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.ingestion import Ingestor
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.events import EventStore
from ml_backend.database.tables import AnnotationRow, CorrectionRow
from ml_backend.label_studio.connections import Connections
from ml_backend.settings import Settings


class Ingesting:
    """An ingestor over a database of its own."""

    def __init__(self, folder: Path, **given: Any) -> None:
        self.settings = Settings(data_dir=folder, expression_key="expr", **given)
        self.database = Database(self.settings.database)
        self.corrections = CorrectionStore(self.database)
        self.annotations = AnnotationStore(self.database)
        self.completions = CompletionStore(self.database)
        self.changed: list[int] = []
        self.ingestor = Ingestor(
            self.settings, self.database, Connections(self.settings), self.changed.append
        )

    def receive(self, bodies: Sequence[dict[str, Any]]) -> None:
        for body in bodies:
            project = body.get("project")
            EventStore(self.database).add(
                body["action"], project["id"] if isinstance(project, dict) else project, body
            )

    def dump(self) -> list[tuple[Any, ...]]:
        """All that the rest of the backend can see of the corrections."""
        with self.database.reading() as session:
            rows = session.scalars(select(CorrectionRow)).all()
            annotations = session.scalars(select(AnnotationRow)).all()
            return sorted(
                (
                    row.annotation_id,
                    row.object,
                    row.expression,
                    str(row.state),
                    row.problem or "",
                    row.revision,
                )
                for row in rows
            ) + sorted((row.id, row.deleted, row.cancelled and not row.deleted) for row in annotations)

    def close(self) -> None:
        self.ingestor.close()
        self.database.close()
