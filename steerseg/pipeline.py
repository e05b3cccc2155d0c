"""SteerSeg: the whole way from a video and an expression to a ranked proposal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg import __version__
from steerseg.config import PipelineConfig
from steerseg.errors import ConfigError
from steerseg.grounding import GroundingMaps, VisionContext, encode_keyframes, ground, slice_seconds
from steerseg.lvlm import LVLM
from steerseg.lvlm.prefix import PrefixStore, VideoPrefixes, default_budget, default_host_budget
from steerseg.points import PointPrompt, point_prompts
from steerseg.presets import Preset, open_preset
from steerseg.ranking import rank_scores
from steerseg.reasoning import attributes_of, check_expression
from steerseg.runtime.devices import resolve_device
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import EncodedVideo, Propagation, Tracker, Tracklet
from steerseg.video import Video, keyframe_indices

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the fraction in [0, 1] of that stage that is done. May raise
:class:`steerseg.errors.Cancelled` to stop the work."""


def _silent(stage: str, fraction: float) -> None:
    """For callers that want no progress."""


def installed_version(package: str) -> str:
    """A package's version; "unknown" where it runs from a folder that was never installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Proposal:
    """The ranked tracklets for one (video, expression).

    Attributes:
        expression: What was asked for, white space tidied.
        attributes: What the chain-of-thought step named; empty without reasoning.
        tracklets: Best first; empty when nothing was found.
        maps: The grounding maps.
        points: Every point prompt that was tried.
        pts: (T,) presentation times in seconds.
        fps: Frames a second.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        versions: What took part: packages, preset, models, soft prompts.
        video: The video itself, for pictures; left out when a proposal crosses a process border.
    """

    expression: str
    attributes: tuple[str, ...]
    tracklets: tuple[Tracklet, ...]
    maps: GroundingMaps = field(repr=False)
    points: tuple[PointPrompt, ...] = field(repr=False)
    pts: NDArray[np.float64] = field(repr=False)
    fps: float
    height: int
    width: int
    versions: dict[str, str]
    video: Video | None = field(default=None, repr=False, compare=False)

    @property
    def best(self) -> Tracklet:
        """The highest-ranked tracklet. Raises ``LookupError`` when nothing was found."""
        if not self.tracklets:
            raise LookupError("the proposal holds no tracklet; check `proposal.tracklets` first")
        return self.tracklets[0]

    def save(self, directory: str | Path) -> None:
        """Write ``proposal.json``, ``masks/``, ``overlay.mp4`` and ``maps.png``."""
        from steerseg.output.proposal import (
            save_proposal,  # pictures need matplotlib, which a server need not load
        )

        save_proposal(self, directory)


@dataclass(frozen=True)
class VideoFeatures:
    """What is kept of a video between expressions: none of it depends on the expression.

    Attributes:
        context: The keyframes as the LVLM's vision tower saw them.
        encoded: The video's frames for SAM 2, encoded when they are first needed.
        prefixes: What the text model made of the chats up to the last visual token.
    """

    context: VisionContext
    encoded: EncodedVideo
    prefixes: VideoPrefixes | None = None


@dataclass(frozen=True)
class Candidates:
    """Different objects that the points led to, tracked over the keyframes but not yet ranked.

    Attributes:
        points: Every point prompt that was tried.
        on_keyframes: The candidates' masks on the keyframes; without candidates where no point gave a mask.
    """

    points: tuple[PointPrompt, ...]
    on_keyframes: Propagation

    @property
    def candidates(self) -> int:
        """How many there are."""
        return len(self.on_keyframes.candidates)


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate's place among its rivals: its index in :class:`Candidates` and its score in [-1, 1]."""

    index: int
    score: float


class SteerSeg:
    """A frozen LVLM and a frozen SAM 2 with the soft prompts that steer the first.

    Args:
        lvlm: The loaded vision-language model.
        tracker: The loaded SAM 2.
        preset: Layers, budgets and questions.
        soft_prompts: What steers attention; ``None`` leaves it raw.
        remembered_videos: For how many videos the features are kept, least recently used first out.
        prefix_bytes: How much is kept beside them of what the text model made of the vision, so that a further
            expression costs its own tokens only; 0 keeps nothing. Left out, on a GPU a third of what is free beside
            the weights and at most 6 GiB, on a CPU 256 MiB.
        remembered_bytes: How much of videos and of SAM 2's features of them is kept, the least recently used
            first out; the video in use is kept whatever its size.
    """

    def __init__(
        self,
        lvlm: LVLM,
        tracker: Tracker,
        preset: Preset,
        soft_prompts: SoftPrompts | None = None,
        *,
        remembered_videos: int = 2,
        prefix_bytes: int | None = None,
        remembered_bytes: int = 4 << 30,
    ) -> None:
        self.lvlm = lvlm
        self.tracker = tracker
        self.preset = preset
        self.texts = preset.texts
        self.config = preset.config
        self.layers = preset.layers or tuple(range(lvlm.num_layers // 2, lvlm.num_layers))
        if max(self.layers) >= lvlm.num_layers:
            raise ConfigError(
                f"preset {preset.name!r} asks for layer {max(self.layers)}, but {lvlm.name!r} has "
                f"{lvlm.num_layers} layers, counted from 0."
            )
        self.soft_prompts = self.prepare_prompts(soft_prompts)
        self._remembered_videos = remembered_videos
        self._seen: OrderedDict[tuple[str, tuple[int, ...]], VideoFeatures] = OrderedDict()
        self._remembered_bytes = remembered_bytes
        self._opened: OrderedDict[str, EncodedVideo] = OrderedDict()
        self._prefixes = PrefixStore(
            default_budget(lvlm.device) if prefix_bytes is None else prefix_bytes, default_host_budget()
        )

    @classmethod
    def from_pretrained(
        cls,
        preset: str | Path | Preset = "demo",
        *,
        device: str = "auto",
        remembered_bytes: int = 4 << 30,
        prefix_bytes: int | None = None,
    ) -> SteerSeg:
        """Load a preset by name (``"demo"``, ``"qwen2.5-vl-7b"``), from a folder, or as :func:`open_preset` changed it.

        Args:
            preset: Name, folder or preset.
            device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            remembered_bytes: See :class:`SteerSeg`.
            prefix_bytes: The same.

        Raises:
            ConfigError: The preset cannot be used.
            ModelError: Weights cannot be loaded.
        """
        loaded = preset if isinstance(preset, Preset) else open_preset(preset)
        place, dtype = resolve_device(device)
        lvlm = LVLM.from_pretrained(loaded.lvlm, device=place, dtype=dtype, quantise=loaded.quantise)
        tracker = Tracker.from_pretrained(loaded.sam2, device=place, dtype=dtype)
        prompts = None if loaded.soft_prompts is None else SoftPrompts.load(loaded.soft_prompts)
        return cls(
            lvlm,
            tracker,
            loaded,
            prompts,
            remembered_bytes=remembered_bytes,
            prefix_bytes=prefix_bytes,
        )

    def prepare_prompts(self, soft_prompts: SoftPrompts | None) -> SoftPrompts | None:
        """The prompts on the model's device.

        Raises:
            ConfigError: Their width is not the model's.
        """
        if soft_prompts is None:
            return None
        if soft_prompts.frame.shape[1] != self.lvlm.hidden_size:
            raise ConfigError(
                f"the soft prompts are {soft_prompts.frame.shape[1]} wide, but {self.lvlm.name!r} takes "
                f"{self.lvlm.hidden_size}; use prompts that were trained for this model."
            )
        return soft_prompts.to(self.lvlm.device)

    def versions(self, soft_prompts: SoftPrompts | None) -> dict[str, str]:
        """What takes part in a proposal."""
        return {
            "steerseg": __version__,
            "torch": str(torch.__version__),  # its own type would bring torch to whoever unpickles it
            "transformers": installed_version("transformers"),
            "sam2": installed_version("sam2"),
            "preset": self.preset.name,
            "lvlm": self.lvlm.version,
            "tracker": self.tracker.version,
            "soft_prompts": "none" if soft_prompts is None else soft_prompts.digest,
        }

    def propose(
        self,
        video: Video,
        expression: str,
        *,
        config: PipelineConfig | None = None,
        soft_prompts: SoftPrompts | None = None,
        progress: Progress | None = None,
    ) -> Proposal:
        """Track what ``expression`` refers to.

        Args:
            video: The video.
            expression: What to track, at most 1 000 characters.
            config: Switches of the method; the preset's where left out.
            soft_prompts: Other soft prompts than the preset's, for example a project's champion.
            progress: Told of each stage.

        Raises:
            ExpressionError: The expression is missing, empty or too long.
            Cancelled: ``progress`` raised it.
        """
        expression = check_expression(expression)
        config = config or self.config
        steering = self.steering(config, soft_prompts)
        tell = progress or _silent

        with self.tracker.encoding_ahead(self.open(video), keyframe_indices(len(video), config.keyframes)):
            seen = self.encode(video, config, tell)
            attributes = self.reason(seen, expression, config, tell)
            maps = self.ground(seen, expression, attributes, config, steering, tell)
        found = self.find_candidates(seen, maps, config, tell)
        ranking = self.rank(found, maps, config)
        tracklets = self.track(seen, found, ranking, tell)
        return Proposal(
            expression=expression,
            attributes=attributes,
            tracklets=tracklets,
            maps=maps,
            points=found.points,
            pts=video.pts,
            fps=video.fps,
            height=video.height,
            width=video.width,
            versions=self.versions(steering),
            video=video,
        )

    def forget(self) -> None:
        """Drop the features of remembered videos, so that the next proposal starts cold."""
        self._seen.clear()
        self._opened.clear()
        self._prefixes.clear()

    def open(self, video: Video) -> EncodedVideo:
        """The video for SAM 2, with the features that earlier work on it has left.

        All videos together are kept below ``remembered_bytes``, the least recently opened being forgotten first.
        """
        encoded = self._opened.pop(video.digest, None) or self.tracker.open(video)
        self._opened[video.digest] = encoded
        while len(self._opened) > 1 and self.remembered > self._remembered_bytes:
            forgotten, _ = self._opened.popitem(last=False)
            for key in [key for key in self._seen if key[0] == forgotten]:
                del self._seen[key]
                self._prefixes.drop(key)
        return encoded

    @property
    def remembered(self) -> int:
        """Bytes of opened videos and their features."""
        return sum(encoded.size for encoded in self._opened.values())

    # ------------------------------------------------------------------ the stages of a proposal

    def steering(self, config: PipelineConfig, soft_prompts: SoftPrompts | None = None) -> SoftPrompts | None:
        """The soft prompts that take part under ``config``: the given ones, else the preset's, else none.

        Raises:
            ConfigError: Their width is not the model's.
        """
        return (self.prepare_prompts(soft_prompts) or self.soft_prompts) if config.soft_prompts else None

    def encode(self, video: Video, config: PipelineConfig, tell: Progress = _silent) -> VideoFeatures:
        """Vision features of the keyframes; remembered, since a further expression needs the same ones."""
        keyframes = keyframe_indices(len(video), config.keyframes)
        key = (video.digest, keyframes)
        if key in self._seen:
            self._seen.move_to_end(key)
            self.open(video)  # it is in use again
            return self._seen[key]
        seen = VideoFeatures(
            self.encode_keyframes(video, config, tell), self.open(video), VideoPrefixes(self._prefixes, key)
        )
        self._seen[key] = seen
        while len(self._seen) > self._remembered_videos:
            forgotten, _ = self._seen.popitem(last=False)
            self._prefixes.drop(forgotten)
        return seen

    def encode_keyframes(
        self,
        video: Video,
        config: PipelineConfig,
        tell: Progress = _silent,
        *,
        pictures: Sequence[int] | None = None,
    ) -> VisionContext:
        """Vision features of the keyframes, not remembered.

        Args:
            video: The video.
            config: Says how many keyframes.
            tell: Told of the stage ``keyframes``.
            pictures: Which of the keyframes are encoded as images; all where left out.
        """
        keyframes = keyframe_indices(len(video), config.keyframes)
        seconds = self.preset.seconds_per_slice
        if seconds is None:
            seconds = slice_seconds(
                float(video.pts[-1] - video.pts[0]), len(keyframes), self.lvlm.family.temporal_merge
            )
        return encode_keyframes(
            self.lvlm,
            video.frames[list(keyframes)],
            keyframes,
            budget=self.preset.video_tokens,
            frame_budget=self.preset.frame_tokens,
            seconds_per_slice=seconds,
            frame_batch=self.preset.frame_batch,
            pictures=pictures,
            tick=lambda fraction: tell("keyframes", fraction),
        )

    def reason(
        self, seen: VideoFeatures, expression: str, config: PipelineConfig, tell: Progress = _silent
    ) -> tuple[str, ...]:
        """What tells the object apart; nothing where ``config`` leaves the step out."""
        if not config.reasoning:
            return ()
        tell("reasoning", 0.0)
        attributes = attributes_of(
            self.lvlm,
            seen.context.video,
            expression,
            self.texts,
            config,
            prefix=None if seen.prefixes is None else seen.prefixes.slot("reasoning", "video"),
        )
        tell("reasoning", 1.0)
        return attributes

    def ground(
        self,
        seen: VideoFeatures,
        expression: str,
        attributes: tuple[str, ...],
        config: PipelineConfig,
        soft_prompts: SoftPrompts | None,
        tell: Progress = _silent,
    ) -> GroundingMaps:
        """Where the LVLM looks when asked for the object; ``None`` for ``soft_prompts`` is raw attention."""
        return ground(
            self.lvlm,
            seen.context,
            self.texts.grounding_question(expression, attributes),
            soft_prompts,
            config,
            layers=self.layers,
            frame_batch=self.preset.frame_batch,
            prefixes=seen.prefixes,
            tick=lambda fraction: tell("grounding", fraction),
        )

    def find_candidates(
        self, seen: VideoFeatures, maps: GroundingMaps, config: PipelineConfig, tell: Progress = _silent
    ) -> Candidates:
        """Points of the fused map and the different objects under them, tracked over the keyframes."""
        points = point_prompts(maps, config)
        candidates = self.tracker.candidates(
            seen.encoded,
            points,
            config,
            keyframes=maps.keyframes,
            progress=lambda fraction: tell("candidates", fraction),
        )
        on_keyframes = self.tracker.propagate(seen.encoded, candidates, frames=maps.keyframes)
        return Candidates(tuple(points), on_keyframes)

    def rank(
        self, found: Candidates, maps: GroundingMaps, config: PipelineConfig
    ) -> tuple[RankedCandidate, ...]:
        """The best candidates, best first, at most ``config.alternatives``."""
        if not found.candidates:
            return ()
        scores = rank_scores(
            found.on_keyframes.soft_masks(),
            maps,
            frame_weight=config.frame_weight,
            temporal_merge=self.lvlm.family.temporal_merge,
        )
        order = scores.argsort(descending=True).tolist()[: config.alternatives]
        return tuple(RankedCandidate(i, float(scores[i])) for i in order)

    def track(
        self,
        seen: VideoFeatures,
        found: Candidates,
        ranking: Sequence[RankedCandidate],
        tell: Progress = _silent,
    ) -> tuple[Tracklet, ...]:
        """The ranked candidates over the whole video, in the given order."""
        if not ranking:
            return ()
        whole = self.tracker.track(
            seen.encoded,
            [found.on_keyframes.candidates[ranked.index] for ranked in ranking],
            progress=lambda fraction: tell("tracking", fraction),
        )
        return tuple(
            replace(tracklet, score=ranked.score) for tracklet, ranked in zip(whole, ranking, strict=True)
        )
