"""What the model process does: load a preset once, then answer requests for proposals, masks, refinements."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ml_backend.models.executor import ProcessLostError, tell_frames
from ml_backend.models.masks import answer_masks
from ml_backend.models.messages import (
    MaskAnswer,
    MaskRequest,
    ModelAnswer,
    ModelRequest,
    PreparedExample,
    PrepareRequest,
    ProposeRequest,
    SteerAnswer,
    SteerRequest,
    TrainingProgress,
    TrainRequest,
    TrialRequest,
    TrialResult,
    Yielded,
    YieldRequested,
)
from ml_backend.models.prompts import LoadedPrompts
from ml_backend.models.refine import Refiner
from ml_backend.models.steer import answer_steering
from ml_backend.models.videos import RecentVideos
from ml_backend.proposals import StoredProposal
from steerseg.errors import SteerSegError
from steerseg.runtime.startup import uncollected
from steerseg.video import VideoLimits

if TYPE_CHECKING:
    import torch

    from steerseg.pipeline import Progress, SteerSeg

log = logging.getLogger(__name__)


class ModelHandler:
    """Answers requests with a loaded :class:`~steerseg.pipeline.SteerSeg`.

    Args:
        steerseg: The models.
        limits: Of the videos.
        frame_bytes: How much of decoded videos is kept for the next request, the least recently used first out.
    """

    def __init__(self, steerseg: SteerSeg, limits: VideoLimits, frame_bytes: int = 1 << 30) -> None:
        self._steerseg = steerseg
        self._videos = RecentVideos(limits, frame_bytes)
        self._prompts = LoadedPrompts()
        self._refiner = Refiner(steerseg, limits, self._prompts)

    def __call__(self, request: ModelRequest, progress: Progress) -> ModelAnswer:
        """Answer one request.

        Raises:
            SteerSegError: The media or the expression cannot be used, or the request was cancelled.
            ProcessLostError: The GPU takes no more work from this process.
        """
        try:
            return self._answer(request, progress)
        except SteerSegError:
            raise
        except Exception as error:
            if _is_lost(self._steerseg.lvlm.device):
                raise ProcessLostError("the GPU takes no more work from it") from error
            raise

    def _answer(self, request: ModelRequest, progress: Progress) -> ModelAnswer:
        match request:
            case ProposeRequest():
                return self._propose(request, progress)
            case SteerRequest():
                return self._steer(request, progress)
            case MaskRequest():
                return self._masks(request, progress)
            case PrepareRequest() | TrainRequest() | TrialRequest():
                return self._refine(request, progress)

    def _propose(self, request: ProposeRequest, progress: Progress) -> StoredProposal:
        video = self._videos.load(request.media, request.fps, progress)
        tell_frames(progress, len(video))
        config = replace(self._steerseg.config, alternatives=request.alternatives)
        proposal = self._steerseg.propose(
            video,
            request.expression,
            config=config,
            soft_prompts=self._prompts.load(request.soft_prompts),
            progress=progress,
        )
        return StoredProposal.from_proposal(proposal)

    def _steer(self, request: SteerRequest, progress: Progress) -> SteerAnswer:
        video = self._videos.load(request.media, request.fps, progress)
        return answer_steering(self._steerseg.tracker, self._steerseg.open(video), request, progress)

    def _refine(
        self, request: PrepareRequest | TrainRequest | TrialRequest, progress: Progress
    ) -> PreparedExample | TrainingProgress | TrialResult | Yielded:
        try:
            match request:
                case PrepareRequest():
                    return self._refiner.prepare(request, progress)
                case TrainRequest():
                    return self._refiner.train(request, progress)
                case TrialRequest():
                    return self._refiner.compare(request, progress)
        except YieldRequested:
            return Yielded()

    def _masks(self, request: MaskRequest, progress: Progress) -> MaskAnswer | Yielded:
        video = self._videos.load(request.media, request.fps, progress)
        try:
            encoded = self._steerseg.open(video)
            return answer_masks(self._steerseg.tracker, video, encoded, request, progress)
        except YieldRequested:
            return Yielded()


def _is_lost(device: torch.device) -> bool:
    """Whether a GPU answers this process no more, as after an illegal access or a fault of its memory."""
    if device.type != "cuda":
        return False
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def _load(
    preset: str, device: str, limits: VideoLimits, memory: int, prefixes: int | None, compiled: bool
) -> ModelHandler:
    with uncollected():
        # Only the model process pays for importing torch, transformers and sam2.
        from tqdm import tqdm
        from transformers.utils import logging as transformers_logging

        from steerseg.pipeline import SteerSeg
        from steerseg.warm_up import warm_up

        transformers_logging.disable_progress_bar()  # a server's log is no terminal
        # In place of tqdm's lock between processes, whose semaphore would be left behind when this process is ended.
        tqdm.set_lock(threading.RLock())
        steerseg = SteerSeg.from_pretrained(
            preset, device=device, remembered_bytes=memory, prefix_bytes=prefixes
        )
    if compiled or steerseg.lvlm.device.type == "cuda":
        log.info("the first proposal compiles what the models need%s", ", SAM 2 too" if compiled else "")
        log.info("the models are warm after %.0f s", warm_up(steerseg, compiled=compiled))
    return ModelHandler(steerseg, limits, memory // 4)


def model_worker(
    preset: str,
    device: str,
    limits: VideoLimits,
    memory: int = 4 << 30,
    *,
    prefixes: int | None = None,
    compiled: bool = False,
) -> Callable[[], ModelHandler]:
    """A picklable factory of the handler for :class:`ml_backend.models.executor.Executor`.

    Args:
        preset: Name or folder.
        device: Where the models run.
        limits: Of the videos.
        memory: Bytes of videos and of SAM 2's features of them that are kept for further requests; a quarter
            as much again is kept of decoded frames.
        prefixes: Bytes of the text model's work on a video that are kept; see :class:`steerseg.pipeline.SteerSeg`.
        compiled: Whether SAM 2 is compiled first.
    """
    return partial(_load, preset, device, limits, memory, prefixes, compiled)
