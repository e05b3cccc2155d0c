"""Where the annotator works: at a Label Studio with the backend behind it, or at the backend alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import FramesSide
from steerseg.errors import ConfigError, SteerSegError
from steerseg.evaluation import Sample

LABEL_CONFIG = Path(__file__).parents[2] / "label_config" / "frames.xml"
EXPRESSION_KEY = "expression"
NOTHING_FOUND = "nothing in the video"
"""How the backend begins to say of a task that it stays without a prediction."""

T = TypeVar("T")
Tell = Callable[[str], None]
"""Called with what happens, a line at a time."""


class WorkError(SteerSegError):
    """The work could not be done as it should be."""


class Workplace(Protocol):
    """What the loop needs. Projects and tasks are numbers."""

    @property
    def base_version(self) -> str:
        """The version of predictions by the preset's own prompts."""
        ...

    def begin(self, title: str, samples: Sequence[Sample]) -> tuple[int, dict[int, Sample]]:
        """Make a project with a task for each sample; the project and its tasks.

        What an interrupted run has left under the title is put away.
        """
        ...

    def propose(self, project: int) -> None:
        """Have every task of a project predicted by the version in use."""
        ...

    def predictions(self, project: int, task: int) -> list[dict[str, Any]]:
        """A task's predictions as they are stored; none where nothing was found."""
        ...

    def submit(self, project: int, task: int, annotation: Mapping[str, Any]) -> None:
        """Submit an annotation as the browser does."""
        ...

    def corrections(self, project: int) -> dict[str, Any]:
        """How the project's corrections stand; see :meth:`ml_backend.service.Service.project_corrections`."""
        ...

    def start_training(self, project: int) -> None:
        """Press *Start training*."""
        ...

    def refinement(self, project: int) -> dict[str, Any]:
        """How the refinements stand; see :meth:`ml_backend.refinement.manager.RefinementManager.status`."""
        ...

    def versions(self, project: int) -> dict[str, Any]:
        """The project's versions, newest last, and the one in use."""
        ...

    def export(self, project: int, name: str, file: Path) -> None:
        """Write a prompt version to a zip file."""
        ...

    def steered_by(self, project: int, sample: Sample) -> tuple[str, str]:
        """Predict a further task, and say by which version and by which soft prompts (their digest)."""
        ...


def frames_side() -> FramesSide:
    """The controls that the annotator uses."""
    side = parse_controls(LABEL_CONFIG.read_text(encoding="utf-8")).frames
    if side is None:
        raise ConfigError(f"{LABEL_CONFIG} shows no frames")
    return side


def wait_for(ask: Callable[[], T | None], what: str, limit: float, pause: float = 0.5) -> T:
    """Ask again and again until the answer is not ``None``.

    Raises:
        WorkError: It was ``None`` for ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while (answer := ask()) is None:
        if time.monotonic() > deadline:
            raise WorkError(f"waited {limit:.0f} s for {what}")
        time.sleep(pause)
    return answer
