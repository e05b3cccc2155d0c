"""A handler that a worker process of the campaigns really runs: it refines tiny models, and proposes boxes.

The server of a campaign imports this module too, so torch is loaded by the worker alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.models.messages import ModelAnswer, ModelRequest, ProposeRequest
from ml_backend.models.reporter import Reporter
from tests.support.proposal_targets import propose

if TYPE_CHECKING:
    from ml_backend.models.soft_prompts import SoftPromptCache

Handler = Callable[[ModelRequest, Reporter], ModelAnswer]


@dataclass
class Films:
    """The media of tasks: a folder of pictures for each film; a task's data names it.

    Attributes:
        root: Where they are.
    """

    root: Path

    def load(self, task: Task, controls: Controls, host: MediaHost | None) -> Media:
        name = str(task.data["film"])
        return Media(self.root / name, f"digest-of-{name}", fps=5.0, frames=controls.frames)


class Storming:
    """Proposes at once, and does everything else as in use.

    Args:
        handler: The handler of everything else.
        prompts: Reads soft prompts.
    """

    def __init__(self, handler: Handler, prompts: SoftPromptCache) -> None:
        self._handler = handler
        self._prompts = prompts

    def __call__(self, request: ModelRequest, reporter: Reporter) -> ModelAnswer:
        if isinstance(request, ProposeRequest):
            self._prompts.load(request.soft_prompts)  # of the champion: whole, or the proposal fails
            return propose(request, reporter)
        return self._handler(request, reporter)


def storming(preset: Path) -> Storming:
    """Load a preset of tiny models."""
    from ml_backend.models.soft_prompts import SoftPromptCache
    from tests.support.refinement_targets import better

    return Storming(better(preset), SoftPromptCache())
