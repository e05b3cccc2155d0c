"""Point prompts -> tracklets, over any segmenter: frames encoded once, candidates tracked as batches.

All candidates advance as one batch, in both directions of time at once, and only the memory that can still be
attended to is kept. The segmenter (:mod:`steerseg.segmenters`) computes masks and memories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.config import PipelineConfig, SegmenterConfig
from steerseg.points import PointPrompt
from steerseg.runtime.room import Room, makes_room
from steerseg.segmenters.base import ObjectMemory, Segmenter
from steerseg.segmenters.choice import load_segmenter
from steerseg.tracking.candidates import find_candidates
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.frame_encoder import FrameEncoder
from steerseg.tracking.host_transfer import MaskSink
from steerseg.tracking.packed_masks import PackedTrack
from steerseg.tracking.prompt_decoder import PromptDecoder
from steerseg.tracking.propagation import Propagator
from steerseg.tracking.tracklets import Candidate, Prompt, Propagation, StageProgress, Tracklet
from steerseg.video.loading import Video, video_from_frames

_FEATURE_BYTES = 2 << 30


class Tracker:
    """The driver over a frozen segmenter.

    Args:
        segmenter: Encodes frames, decodes prompts and computes steps.
        feature_bytes: How many bytes of a video's image features are kept.

    Attributes:
        segmenter: As above.
        encoder: Encodes frames when they are needed.
        decoder: Decodes prompts.
        propagator: Tracks candidates.
        room: The memory of the segmenter's device.

    Example:
        >>> from steerseg.presets import open_preset
        >>> tracker = Tracker.from_pretrained(open_preset("demo").segmenter_source)
        >>> film = video_from_frames(np.zeros((3, 90, 160, 3), dtype=np.uint8), fps=8.0)
        >>> encoded = tracker.open(film)
        >>> candidate = tracker.start(encoded, [Prompt(0, points=((0.5, 0.5),), labels=(True,))])
        >>> (tracklet,) = tracker.track(encoded, [candidate])
        >>> tracklet.masks.shape
        (3, 90, 160)
    """

    def __init__(self, segmenter: Segmenter, *, feature_bytes: int = _FEATURE_BYTES) -> None:
        self.segmenter = segmenter
        self.encoder = FrameEncoder(segmenter, feature_bytes)
        self.room = Room()
        self.room.add(self._give_memory)
        self.decoder = PromptDecoder(segmenter, self.encoder)
        self.propagator = Propagator(segmenter, self.encoder)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
    ) -> Tracker:
        """Load a segmenter by its name, its hub id or its folder.

        Args:
            source: See :func:`steerseg.segmenters.choice.load_segmenter`.
            device: Where to run.
            dtype: ``torch.bfloat16`` runs a GPU under autocast; a CPU goes by ``config``.
            config: How frames and clicks reach the segmenter.

        Raises:
            ModelError: Nothing usable is there, or weights and configuration do not fit.
        """
        return cls(load_segmenter(source, device, dtype, config))

    @property
    def version(self) -> str:
        """Name and hash of the segmenter's configuration and weights."""
        return self.segmenter.version

    @property
    def device(self) -> torch.device:
        """Where the segmenter is."""
        return self.segmenter.device

    def _give_memory(self, more: bool) -> None:
        """Drop captured steps; where ``more`` is needed, encode fewer frames at once from now on."""
        self.segmenter.forget_steps()
        if more:
            self.encoder.halve()

    # ------------------------------------------------------------------ frames

    def open(self, video: Video) -> EncodedVideo:
        """A video to track in; its frames are encoded when they are first needed."""
        return self.encoder.open(video)

    @makes_room("the encoding of frames")
    def encode(
        self,
        encoded: EncodedVideo,
        frames: Sequence[int] | None = None,
        progress: StageProgress | None = None,
    ) -> None:
        """Encode those of ``frames`` (all where left out) that are not yet, in batches."""
        self.encoder.encode(encoded, frames, progress)

    def encoding_ahead(
        self, encoded: EncodedVideo, first: Sequence[int]
    ) -> AbstractContextManager[Callable[[], None]]:
        """Inside, frames are encoded while something else is done; see :meth:`FrameEncoder.ahead`."""
        return self.encoder.ahead(encoded, first)

    # ------------------------------------------------------------------ candidates

    @makes_room("the search for candidates")
    def candidates(
        self,
        encoded: EncodedVideo,
        points: Sequence[PointPrompt],
        config: PipelineConfig,
        *,
        keyframes: Sequence[int] | None = None,
        known: Sequence[Candidate] = (),
        progress: StageProgress | None = None,
    ) -> list[Candidate]:
        """Points -> different objects, tracked over the keyframes.

        Points of all keyframes are decoded together. A candidate's first score is its predicted overlap
        plus the map's value. On the keyframe of the best one, all that differ are tracked over the keyframes
        as one batch; candidates of other keyframes that one of these tracks already covers are dropped; and
        so on with the best of the rest (DecAF does the same one point at a time; the batches are our choice).

        Args:
            encoded: The video.
            points: Prompts.
            config: ``duplicate_iou`` and ``max_candidates`` count here.
            keyframes: Where to track them; the points' own frames if left out. A later :meth:`propagate` over
                the same frames costs nothing.
            known: Candidates that are tracked over the keyframes already; their objects are not found again.
            progress: Told of each encoded batch and each tracked frame.

        Returns:
            Candidates in the order in which they were found; empty where no point gives a mask.
        """
        frames = tuple(sorted({*(keyframes or ()), *(point.frame for point in points)}))
        report = progress or (lambda fraction: None)
        self.encoder.encode(encoded, frames, progress=lambda fraction: report(0.0))
        candidates = find_candidates(
            encoded,
            points,
            frames,
            config,
            decoder=self.decoder,
            propagator=self.propagator,
            progress=report,
            known=known,
        )
        report(1.0)
        return candidates

    @makes_room("the decoding of prompts")
    def start(self, encoded: EncodedVideo, prompts: Sequence[Prompt]) -> Candidate:
        """One object from prompts on one or several frames, each of which conditions the tracking.

        Raises:
            ValueError: No prompt, two on one frame, a frame that the video does not have, or a mask of another
                size than the video's.
        """
        frames = [prompt.frame for prompt in prompts]
        if not prompts or len(set(frames)) != len(frames):
            raise ValueError(f"expected at least one prompt and one a frame, got frames {frames}")
        _check_frames(encoded, frames)
        memories: dict[int, ObjectMemory] = {}
        quality = 1.0
        for prompt in sorted(prompts, key=lambda prompt: prompt.frame):
            decoded = self.decoder.decode_prompt(encoded, prompt)
            quality = min(quality, decoded.answer.predicted_iou)
            memories[prompt.frame] = self.decoder.remember(encoded, [decoded])[0]
        point = prompts[0].as_point()
        return Candidate(point, quality + point.value, quality, memories)

    @makes_room("the decoding of prompts")
    def start_each(self, encoded: EncodedVideo, prompts: Sequence[Prompt]) -> list[Candidate]:
        """Objects of one prompt each, decoded together; the same as :meth:`start` gives one by one.

        Raises:
            ValueError: A frame that the video does not have, or a mask of another size than the video's.
        """
        _check_frames(encoded, [prompt.frame for prompt in prompts])
        decoded = self.decoder.decode_prompts(encoded, prompts)
        memories = self.decoder.remember_each(encoded, decoded)
        return [
            Candidate(
                each.point,
                min(1.0, each.answer.predicted_iou) + each.point.value,
                min(1.0, each.answer.predicted_iou),
                {prompt.frame: memory},
            )
            for prompt, each, memory in zip(prompts, decoded, memories, strict=True)
        ]

    def correct(
        self,
        encoded: EncodedVideo,
        candidate: Candidate,
        prompt: Prompt,
        progress: StageProgress | None = None,
    ) -> Candidate:
        """Correct an object by clicks or a box on a frame where it was tracked, as SAM 2's own predictor does.

        The frame is tracked as it would be without the prompt. Its memories and its own logits then go into the
        decoder beside the clicks, and the answer conditions all other frames. This is what the package's predictor
        does with ``add_all_frames_to_correct_as_cond``; without it, the next propagation tracks the frame anew and
        the clicks are lost.

        Args:
            encoded: The video.
            candidate: The object.
            prompt: Clicks or a box; its ``earlier`` is not used.
            progress: Told of each tracked frame.

        Raises:
            ValueError: The prompt is a mask, or is on a frame that the video does not have.
        """
        if prompt.mask is not None:
            raise ValueError(
                "a mask is the truth on its frame and corrects nothing; start the object with it"
            )
        if not 0 <= prompt.frame < len(encoded):
            raise ValueError(
                f"prompted frame {prompt.frame}, but the video has frames 0 to {len(encoded) - 1}"
            )
        tracked = self.propagator.track_to(encoded, candidate, prompt.frame, progress)
        decoded = self.decoder.decode_correction(encoded, prompt, tracked)
        (memory,) = self.decoder.remember(encoded, [decoded])
        return replace(
            candidate,
            predicted_iou=min(candidate.predicted_iou, decoded.answer.predicted_iou),
            memories={**candidate.memories, prompt.frame: memory},
            tracked=None,
            origin=candidate.first_frame,
        )

    # ------------------------------------------------------------------ tracking

    @makes_room("tracking")
    def propagate(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        frames: Sequence[int] | None = None,
        progress: StageProgress | None = None,
    ) -> Propagation:
        """Track all candidates forwards and backwards from where they were prompted, as one batch.

        Args:
            encoded: The video.
            candidates: The objects to track.
            frames: Where to track; all frames of the video if left out. The segmenter sees these and the prompted
                frames as if they followed each other directly.
            progress: Told of each tracked frame.
        """
        wanted = tuple(range(len(encoded))) if frames is None else tuple(sorted(set(frames)))
        tracked = self.propagator.tracked(encoded, candidates, wanted, progress)
        tracks = [candidate.tracked for candidate in tracked if candidate.tracked is not None]
        if not tracks:
            side = self.segmenter.logits_side
            logits = torch.zeros(0, len(wanted), side, side)
            scores: NDArray[np.float32] = np.zeros((0, len(wanted)), dtype=np.float32)
        else:
            logits = torch.stack([track.logits for track in tracks])
            scores = np.stack([track.presence for track in tracks])
        return Propagation(tuple(tracked), wanted, logits, scores, encoded.height, encoded.width)

    @makes_room("tracking")
    def track(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        progress: StageProgress | None = None,
    ) -> tuple[Tracklet, ...]:
        """The candidates as tracklets of the whole video, with a score of 0 until they are ranked.

        The masks are those of :meth:`propagate`, in memory that hardly grows with the video's length.

        Args:
            encoded: The video.
            candidates: The objects to track.
            progress: Told of each tracked frame.
        """
        packed = [PackedTrack(len(encoded), encoded.height, encoded.width) for _ in candidates]
        self.follow(encoded, candidates, packed, progress=progress)
        return tuple(
            Tracklet(rles=track.rles, frame_scores=track.presence, prompt=candidate.prompt, score=0.0)
            for track, candidate in zip(packed, candidates, strict=True)
        )

    def follow(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        sinks: Sequence[MaskSink],
        progress: StageProgress | None = None,
        *,
        frames: tuple[int, ...] | None = None,
    ) -> None:
        """Track all candidates over the whole video and hand on each frame's mask as soon as it is there.

        Nothing is kept of a frame but what the segmenter still attends to.

        Args:
            encoded: The video.
            candidates: The objects to track.
            sinks: Receivers of the masks, one for each candidate.
            progress: Told of each tracked frame.
            frames: Where to track, rising; all frames of the video if left out. Masks of prompted frames come, too.
        """
        frames = tuple(range(len(encoded))) if frames is None else frames
        wanted: dict[int, MaskSink] = {}
        for owner, (candidate, sink) in enumerate(zip(candidates, sinks, strict=True)):
            track = candidate.tracked
            if track is None or track.frames != frames:
                wanted[owner] = sink
                continue
            for frame in frames:
                sink.put(frame, track.logits[frame], float(track.presence[frame]))
        self.propagator.run(encoded, candidates, wanted, frames, progress)

    # ------------------------------------------------------------------ warm-up

    def warm(self, rows: Sequence[int] = (1, 2, 4)) -> None:
        """Capture the steps of some batch sizes, so that the first videos need not wait. Nothing on a CPU.

        Args:
            rows: Numbers of objects, both directions of time counted.
        """
        if self.segmenter.captures_steps:
            self.capture_steps(rows)

    def capture_steps(self, rows: Sequence[int]) -> None:
        """See each form of a step once, on a made-up video, so that it is captured.

        Args:
            rows: Numbers of objects, both directions of time counted.
        """
        # As many frames as it takes until every later step is of one form.
        length = self.segmenter.memory_reach.pointers + 2
        still = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        encoded = self.open(video_from_frames(np.stack([still] * length), fps=24))
        for count in rows:
            prompts = [Prompt(0, (((index + 0.5) / count, 0.5),), (True,)) for index in range(count)]
            started = self.start_each(encoded, prompts)
            with self.segmenter.capturing_at_once():
                self.propagate(encoded, started)

    @property
    def capture_seconds(self) -> float:
        """Seconds that capturing steps has taken so far."""
        return self.segmenter.capture_seconds


def _check_frames(encoded: EncodedVideo, frames: Sequence[int]) -> None:
    if any(frame < 0 or frame >= len(encoded) for frame in frames):
        raise ValueError(f"prompted frames {frames}, but the video has frames 0 to {len(encoded) - 1}")
