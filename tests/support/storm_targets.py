"""A handler that a worker process of the campaigns really runs: it refines tiny models, and proposes boxes."""

from __future__ import annotations

from pathlib import Path

from ml_backend.models.messages import ModelAnswer, ModelRequest, ProposeRequest
from ml_backend.models.reporter import Reporter
from ml_backend.models.soft_prompts import SoftPromptCache
from tests.support.proposal_targets import propose
from tests.support.refinement_targets import Better, better


class Storming:
    """Proposes at once, and does everything else as in use.

    Args:
        handler: The handler of everything else.
    """

    def __init__(self, handler: Better) -> None:
        self._handler = handler
        self._prompts = SoftPromptCache()

    def __call__(self, request: ModelRequest, reporter: Reporter) -> ModelAnswer:
        if isinstance(request, ProposeRequest):
            self._prompts.load(request.soft_prompts)  # of the champion: whole, or the proposal fails
            return propose(request, reporter)
        return self._handler(request, reporter)


def storming(preset: Path) -> Storming:
    """Load a preset of tiny models."""
    return Storming(better(preset))
