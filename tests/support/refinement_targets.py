"""A handler that a worker process of the refinement tests really runs: tiny models of the real architectures."""

from __future__ import annotations

import threading
from pathlib import Path

from ml_backend.models.handler import ModelHandler
from ml_backend.models.messages import ModelAnswer, ModelRequest, TrialRequest, TrialResult
from ml_backend.models.reporter import Reporter


class Better:
    """Does everything as in use, but finds every candidate better: random models would find them equal.

    Args:
        handler: The handler in use.
    """

    def __init__(self, handler: ModelHandler) -> None:
        self._handler = handler

    def __call__(self, request: ModelRequest, reporter: Reporter) -> ModelAnswer:
        answer = self._handler(request, reporter)
        if isinstance(request, TrialRequest) and isinstance(answer, TrialResult):
            return TrialResult(candidate=0.8, champion=0.6 if "film" in request.example.group else 0.8)
        return answer


def better(preset: Path) -> Better:
    """Load a preset of tiny models."""
    import torch
    from tqdm import tqdm

    from steerseg.pipeline import SteerSeg
    from steerseg.video import VideoLimits

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())
    return Better(ModelHandler(SteerSeg.from_pretrained(preset, device="cpu"), VideoLimits()))
