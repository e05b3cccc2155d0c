"""The handlers of a model process: they answer requests for proposals, masks and slices of refinements.

A process holds one loaded preset, with a language model or without. It imports torch, so that the server never does:
:class:`ml_backend.models.workers.ModelFactory` names it to the process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from ml_backend.models.masks import answer_masks
from ml_backend.models.messages import (
    MaskAnswer,
    MaskRequest,
    ModelAnswer,
    ModelRequest,
    NameRequest,
    PrepareRequest,
    ProposeRequest,
    SteerAnswer,
    SteerRequest,
    StepRequest,
    TrainRequest,
    TrialRequest,
    Yielded,
    is_read_ahead,
)
from ml_backend.models.process import ProcessLostError
from ml_backend.models.propose import reason_ahead, stored_proposal
from ml_backend.models.refine import Refiner
from ml_backend.models.reporter import Reporter, YieldRequested, yielding_progress
from ml_backend.models.sample_files import SampleReader
from ml_backend.models.soft_prompts import SoftPromptCache
from ml_backend.models.steer import CorrectedObjects, answer_steering
from ml_backend.models.step_messages import GradientRequest
from ml_backend.models.trainings import Trainings
from ml_backend.models.videos import RecentVideos
from ml_backend.proposals import StoredProposal
from steerseg.config import Correction
from steerseg.errors import NoLanguageModelError, SteerSegError
from steerseg.pipeline import SteerSeg
from steerseg.presets import Preset, open_preset
from steerseg.proposal import Proposal
from steerseg.runtime.devices import resolve_device
from steerseg.tracking import EncodedVideo, OpenVideos, Tracker
from steerseg.tracking.both_ways import BothWays, track_both_ways
from steerseg.video import Progress, Video, VideoLimits
from steerseg.video.isolation import IsolatedDecoder
from steerseg.warm_up import compile_tracker, warm_up

log = logging.getLogger(__name__)


class SegmenterHandler:
    """Answers requests that take the segmenter alone: clicks, boxes and masks.

    Args:
        tracker: The tracker over the segmenter.
        open_video: Opens a video for the tracker.
        limits: Limits of the videos.
        frame_bytes: Bytes of decoded videos that are kept for the next request, the least recently used first out.
        correction: What prompts on a tracked frame go with.
    """

    def __init__(
        self,
        tracker: Tracker,
        open_video: Callable[[Video], EncodedVideo],
        limits: VideoLimits,
        frame_bytes: int = 1 << 30,
        *,
        correction: Correction,
    ) -> None:
        self._tracker = tracker
        self._open = open_video
        self._correction: Correction = correction
        self._decoder = IsolatedDecoder(limits)
        self._videos = RecentVideos(self._decoder, frame_bytes)
        self._corrected: tuple[str, CorrectedObjects] | None = None

    def warm_up(self, *, compiled: bool) -> None:
        """Have a decoder waiting, and on a GPU capture the steps of tracking.

        Args:
            compiled: Whether to compile the segmenter.
        """
        self._decoder.start()
        if compiled:
            compile_tracker(self._tracker)
        self._tracker.warm()

    def __call__(self, request: ModelRequest, reporter: Reporter) -> ModelAnswer:
        """Answer one request.

        Raises:
            SteerSegError: The media or the expression cannot be used, or the request was cancelled.
            ProcessLostError: The GPU takes no more work from this process.
        """
        try:
            return self._answer(request, reporter)
        except YieldRequested:
            return Yielded()
        except SteerSegError:
            raise
        except Exception as error:
            if _is_lost(self._tracker.device):
                raise ProcessLostError("the GPU takes no more work from it") from error
            raise

    def read_ahead(
        self, request: ModelRequest | None, upcoming: Sequence[ModelRequest], *, urgent: bool = False
    ) -> None:
        """Decode the videos of proposals that are probably asked for next, while another request is answered.

        Args:
            request: The one that is answered; ``None`` where none is.
            upcoming: What is probably asked for next, soonest first.
            urgent: Whether a person waits for the answer.
        """
        loaded = (ProposeRequest, SteerRequest, MaskRequest)
        self._videos.settle([(one.media, one.fps) for one in (request, *upcoming) if isinstance(one, loaded)])
        for one in upcoming:
            if is_read_ahead(one):
                self._videos.read_ahead(one.media, one.fps)

    def _answer(self, request: ModelRequest, reporter: Reporter) -> ModelAnswer:
        match request:
            case SteerRequest():
                return self._steer(request, reporter)
            case MaskRequest():
                return self._masks(request, reporter)
            case _:
                raise NoLanguageModelError("the loaded preset has no language model, which this takes")

    def _steer(self, request: SteerRequest, reporter: Reporter) -> SteerAnswer:
        video = self._videos.load(request.media, request.fps, reporter.progress)
        return answer_steering(
            self._tracker,
            self._open(video),
            request,
            reporter.progress,
            correction=self._correction,
            corrected=self._corrected_objects(video.digest),
        )

    def _corrected_objects(self, digest: str) -> CorrectedObjects:
        """The objects of the video that is corrected now; those of another one are dropped."""
        if self._corrected is None or self._corrected[0] != digest:
            self._corrected = (digest, CorrectedObjects())
        return self._corrected[1]

    def _masks(self, request: MaskRequest, reporter: Reporter) -> MaskAnswer:
        video = self._videos.load(request.media, request.fps, reporter.progress)
        return answer_masks(self._tracker, video, self._open(video), request, reporter)


class ModelHandler(SegmenterHandler):
    """Answers all requests, with a loaded :class:`~steerseg.pipeline.SteerSeg`.

    Args:
        steerseg: The models.
        limits: Limits of the videos.
        frame_bytes: See :class:`SegmenterHandler`.
    """

    def __init__(self, steerseg: SteerSeg, limits: VideoLimits, frame_bytes: int = 1 << 30) -> None:
        super().__init__(
            steerseg.tracker, steerseg.open, limits, frame_bytes, correction=steerseg.config.correction
        )
        self._steerseg = steerseg
        self._soft_prompts = SoftPromptCache()
        samples = SampleReader()
        self._refiner = Refiner(steerseg, self._decoder, self._soft_prompts, samples)
        self._trainings = Trainings(steerseg, self._soft_prompts, samples)
        self._upcoming: list[ProposeRequest] = []  # whose chains of thought may be decoded ahead

    def warm_up(self, *, compiled: bool) -> None:
        """Have a decoder waiting, and make one proposal where the first one compiles what the models need.

        That is on a GPU, or where it is asked for.

        Args:
            compiled: Whether to compile the segmenter.
        """
        self._decoder.start()
        if not compiled and self._steerseg.lvlm.device.type != "cuda":
            return
        log.info("the first proposal compiles what the models need")
        log.info("the models are warm after %.0f s", warm_up(self._steerseg, compiled=compiled))

    def read_ahead(
        self, request: ModelRequest | None, upcoming: Sequence[ModelRequest], *, urgent: bool = False
    ) -> None:
        """Decode videos ahead, and note what may be reasoned about together with the request."""
        super().read_ahead(request, upcoming, urgent=urgent)
        self._upcoming = [] if urgent else [one for one in upcoming if is_read_ahead(one)]

    @property
    def switched_off(self) -> str:
        """What the preset asks for and cannot have, for a person; empty where it has all."""
        return self._steerseg.switched_off

    def _answer(self, request: ModelRequest, reporter: Reporter) -> ModelAnswer:
        match request:
            case ProposeRequest():
                return self._propose(request, reporter)
            case NameRequest():
                return self._refiner.name(request, reporter)
            case PrepareRequest():
                return self._refiner.prepare(request, reporter)
            case TrainRequest():
                return self._trainings.train(request, reporter)
            case StepRequest():
                return self._trainings.step(request, reporter)
            case GradientRequest():
                return self._trainings.gradients(request, reporter)
            case TrialRequest():
                return self._refiner.compare(request, reporter)
            case SteerRequest() | MaskRequest():
                return super()._answer(request, reporter)

    def _propose(self, request: ProposeRequest, reporter: Reporter) -> StoredProposal:
        progress = yielding_progress(reporter)
        video = self._videos.load(request.media, request.fps, progress)
        reporter.frames(len(video))
        self._reason_ahead(video, request, progress)
        proposal = self._steerseg.propose(
            video,
            request.expression,
            config=replace(self._steerseg.config, alternatives=request.alternatives),
            soft_prompts=self._soft_prompts.load(request.soft_prompts),
            progress=progress,
        )
        return stored_proposal(
            proposal, self._track_both_ways(proposal, reporter) if request.both_ways else None
        )

    def _reason_ahead(self, video: Video, request: ProposeRequest, progress: Progress) -> None:
        """Have the chain of thought decoded together with those of upcoming proposals whose videos are there."""
        due = [(video, request), *((self._videos.arrived(one.media, one.fps), one) for one in self._upcoming)]
        asked = [
            (there, one.expression, partial(self._soft_prompts.load, one.soft_prompts))
            for there, one in due
            if there is not None
        ]
        reason_ahead(self._steerseg, asked, progress)

    def _track_both_ways(self, proposal: Proposal, reporter: Reporter) -> dict[int, BothWays]:
        """By rank, how the shown tracklets are tracked in both directions, over the keyframes alone."""
        assert proposal.video is not None
        found = track_both_ways(
            self._steerseg.tracker,
            self._steerseg.open(proposal.video),
            [proposal.tracklets[rank] for rank in proposal.shown],
            proposal.maps.keyframes,
            partial(reporter.progress, "checking"),
        )
        return dict(zip(proposal.shown, found, strict=True))


def _is_lost(device: torch.device) -> bool:
    """Whether a GPU answers this process no more, as after an illegal access or a fault of its memory."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def load_handler(
    preset: str,
    device: str,
    limits: VideoLimits,
    *,
    memory_bytes: int,
    prefix_bytes: int | None,
    threads: int | None = None,
) -> SegmenterHandler:
    """Load a preset in a process that does nothing else.

    Args:
        preset: Name or folder.
        device: Where the models run.
        limits: Limits of the videos.
        memory_bytes: Bytes of videos and features that are kept; a quarter as much again of decoded frames.
        prefix_bytes: Bytes of the text model's work on a video that are kept.
        threads: Cores that the models use on a CPU; ``None`` for all of them.

    Raises:
        SteerSegError: The preset or its models cannot be used.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()  # a server's log is no terminal
    # In place of tqdm's lock between processes, whose semaphore would be left behind when this process is ended.
    tqdm.set_lock(threading.RLock())
    loaded = open_preset(preset)
    if loaded.lvlm is None:
        return _load_segmenter(loaded, device, limits, memory_bytes)
    steerseg = SteerSeg.from_pretrained(
        loaded, device=device, remembered_bytes=memory_bytes, prefix_bytes=prefix_bytes
    )
    return ModelHandler(steerseg, limits, memory_bytes // 4)


def _load_segmenter(preset: Preset, device: str, limits: VideoLimits, memory_bytes: int) -> SegmenterHandler:
    """The segmenter of a preset without a language model.

    Raises:
        SteerSegError: Its weights cannot be used.
    """
    torch_device, dtype = resolve_device(device)
    tracker = Tracker.from_pretrained(
        preset.segmenter_source, device=torch_device, dtype=dtype, config=preset.segmenter_config
    )
    videos = OpenVideos(tracker, memory_bytes)
    return SegmenterHandler(
        tracker, videos.open, limits, memory_bytes // 4, correction=preset.config.correction
    )
