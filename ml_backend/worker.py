"""What the model process does: load a preset once, then turn (media, expression) into proposals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.proposals import StoredProposal
from steerseg.video import VideoLimits, load_video

if TYPE_CHECKING:
    from steerseg.pipeline import Progress, SteerSeg


@dataclass(frozen=True)
class ProposeRequest:
    """Ask for one proposal.

    Attributes:
        media: A video file, or a folder of frames whose names give their order.
        expression: What to track.
        fps: Frames a second of a folder of frames; files know their own.
        alternatives: Most tracklets wanted.
    """

    media: Path
    expression: str
    fps: float | None
    alternatives: int


class ProposalHandler:
    """Answers :class:`ProposeRequest` with a loaded :class:`~steerseg.pipeline.SteerSeg`."""

    def __init__(self, steerseg: SteerSeg, limits: VideoLimits) -> None:
        self._steerseg = steerseg
        self._limits = limits

    def __call__(self, request: ProposeRequest, progress: Progress) -> StoredProposal:
        """Decode and propose.

        Raises:
            SteerSegError: The media or the expression cannot be used, or the request was cancelled.
        """
        video = load_video(request.media, limits=self._limits, fps=request.fps, progress=progress)
        config = replace(self._steerseg.config, alternatives=request.alternatives)
        proposal = self._steerseg.propose(video, request.expression, config=config, progress=progress)
        return StoredProposal.from_proposal(proposal)


def _load(preset: str, device: str, limits: VideoLimits) -> ProposalHandler:
    # Only the model process pays for importing torch, transformers and sam2.
    from tqdm import tqdm
    from transformers.utils import logging as transformers_logging

    from steerseg.pipeline import SteerSeg

    transformers_logging.disable_progress_bar()  # a server's log is no terminal
    # In place of tqdm's lock between processes, whose semaphore would be left behind when this process is ended.
    tqdm.set_lock(threading.RLock())
    return ProposalHandler(SteerSeg.from_pretrained(preset, device=device), limits)


def proposal_worker(preset: str, device: str, limits: VideoLimits) -> Callable[[], ProposalHandler]:
    """A picklable factory of the handler for :class:`ml_backend.executor.Executor`."""
    return partial(_load, preset, device, limits)
