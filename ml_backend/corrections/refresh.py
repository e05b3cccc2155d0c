"""A project's corrections brought up to date, before they are learned from."""

from __future__ import annotations

from ml_backend.corrections.completion import Completer
from ml_backend.corrections.ingestion import Ingestor, Reconciliation
from steerseg.errors import SteerSegError


class CorrectionRefresher:
    """Reads a project's annotations from Label Studio and completes their corrections.

    Args:
        ingestor: What reads annotations.
        completer: What completes corrections.
    """

    def __init__(self, ingestor: Ingestor, completer: Completer) -> None:
        self._ingestor = ingestor
        self._completer = completer

    def refresh(self, project_id: int) -> None:
        """Bring a project's corrections up to date; may take long.

        Raises:
            SteerSegError: Label Studio cannot be asked, or the database not be used. What is known is completed all
                the same.
        """
        try:
            self.read(project_id)
        except SteerSegError:
            self.complete(project_id)
            raise
        self.complete(project_id)

    def read(self, project_id: int) -> Reconciliation:
        """Read a project's annotations; see :meth:`refresh` for errors."""
        return self._ingestor.reconcile(project_id)

    def complete(self, project_id: int) -> None:
        """Complete what can be completed of a project's corrections; may take long.

        Raises:
            StoreError: The database cannot be used.
        """
        self._completer.complete_all(project_id, patiently=False)
