"""The version by which a project's predictions are made, under the name that Label Studio shows."""

from __future__ import annotations

from dataclasses import dataclass

from ml_backend.models.messages import SoftPromptsRef
from ml_backend.refinement.versions import PromptLine


@dataclass(frozen=True)
class ModelVersion:
    """A version of predictions. It is read once for each request: a promotion meanwhile counts for the next one.

    Attributes:
        name: Its name in Label Studio.
        soft_prompts: The champion's soft prompts; ``None`` for the preset's own.
    """

    name: str
    soft_prompts: SoftPromptsRef | None


class ModelVersions:
    """The versions of every project. Safe to share between threads.

    Args:
        line: The prompt versions.
        base: Version of predictions by the preset's own soft prompts.
    """

    def __init__(self, line: PromptLine, base: str) -> None:
        self._line = line
        self.base = base

    def current(self, project_id: int) -> ModelVersion:
        """The version in use for a project: its champion's, else the preset's.

        Raises:
            StoreError: The database cannot be read.
        """
        champion = self._line.champion(project_id)
        if champion is None:
            return ModelVersion(self.base, None)
        return ModelVersion(self._name(champion.name), self._line.ref(champion))

    def names(self, project_id: int) -> tuple[str, ...]:
        """The names of all versions of a project, the preset's first and then the newest last.

        Raises:
            StoreError: The database cannot be read.
        """
        return self.base, *(self._name(version.name) for version in self._line.versions.versions(project_id))

    def _name(self, prompt_version: str) -> str:
        return f"{self.base}+{prompt_version}"
