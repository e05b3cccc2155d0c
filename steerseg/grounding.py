"""Expression, attributes and soft prompts -> grounding maps at frame and video granularity."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from steerseg.attention.rollout import streaming_rollout, visual_map
from steerseg.config import Borders, Heads, PipelineConfig, Placement
from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.lvlm.families.base import GridRule
from steerseg.lvlm.prefix import PrefixSlot, VideoPrefixes
from steerseg.lvlm.vision import Timing
from steerseg.soft_prompts import SoftPrompts

# Kernel widths of the Gaussian blur (sigma 1) that DecAF uses.
FRAME_KERNEL = 7
VIDEO_KERNEL = 3


@dataclass(frozen=True)
class GroundingMaps:
    """Attention rolled out from the response token to the visual tokens, smoothed and normalised.

    Attributes:
        keyframes: The K video frames (decode indices) that the LVLM saw.
        frame: (K, h, w) float32 in [0, 1], min-max per keyframe; ``None`` when only video granularity is used.
        video: (ceil(K / 2), h', w') float32 in [0, 1], min-max over the clip; ``None`` when only frame
            granularity is used.
        fused: (K, h, w) float32 in [0, 1], min-max over the clip.
    """

    keyframes: tuple[int, ...]
    frame: torch.Tensor | None
    video: torch.Tensor | None
    fused: torch.Tensor


@dataclass(frozen=True)
class VisionContext:
    """Visual tokens of one video's keyframes, at both granularities. They do not depend on the expression.

    Attributes:
        keyframes: The K video frames (decode indices).
        video: Visual tokens of the keyframes as one video.
        frames: Visual tokens of the K keyframes as separate images, at exactly twice the video's grid in each
            direction, so that the maps align.
    """

    keyframes: tuple[int, ...]
    video: VisionFeatures
    frames: VisionFeatures


def slice_seconds(duration: float, keyframes: int, temporal_merge: int) -> float:
    """Seconds between two slices of the video pass, of keyframes spread over ``duration`` seconds."""
    return max(duration, 1e-3) / max(1, keyframes / temporal_merge)


def encode_keyframes(
    lvlm: LVLM,
    frames: NDArray[np.uint8],
    keyframes: Sequence[int],
    *,
    budget: int,
    seconds_per_slice: float = 1.0,
    timing: Timing | None = None,
    frame_batch: int | None = None,
    frame_budget: int | None = None,
    config: PipelineConfig | None = None,
    pictures: Sequence[int] | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> VisionContext:
    """Show the keyframes to the vision tower, once as a video and once as separate images.

    Args:
        lvlm: The model.
        frames: (K, H, W, 3) uint8, the keyframes' pixels.
        keyframes: Their indices in the video.
        budget: Most visual tokens of a slice of the video pass; families whose video frames have one size ignore it.
        seconds_per_slice: Seconds between two frame pairs, of keyframes that are spread evenly.
        timing: When the keyframes are, where they are not.
        frame_batch: Images encoded at a time; as many as suit the device where left out.
        frame_budget: Most visual tokens of a frame pass, for families that cut images into tiles; four
            times ``budget`` where left out. The others use exactly twice the video's grid in each direction.
        config: Its ``grid`` and ``enlarge`` count; the defaults where left out.
        pictures: Indices of the keyframes that are encoded as images; all where left out. Training needs but a few.
        tick: Called with the fraction done.
    """
    config = config or PipelineConfig()
    sizes = lvlm.family.sizes(
        frames.shape[1],
        frames.shape[2],
        video_tokens=budget,
        frame_tokens=frame_budget or 4 * budget,
        rule=GridRule(config.grid, config.enlarge),
    )
    resized = lvlm.resize(frames, *sizes.video)
    video = lvlm.encode_vision(resized, "video", seconds_per_slice=seconds_per_slice, timing=timing)
    pixels = frames if pictures is None else frames[list(pictures)]
    batch = frame_batch or lvlm.activations.rows_at_once(frame_budget or 4 * budget, 0)
    parts = []
    for start in range(0, len(pixels), batch):
        images = lvlm.resize(pixels[start : start + batch], *sizes.picture)
        parts.append(lvlm.encode_vision(images, "image"))
        tick(min(1.0, (start + batch) / len(pixels)))
    return VisionContext(tuple(keyframes), video, VisionFeatures.join(parts))


def smooth(
    maps: torch.Tensor, kernel: int, borders: Borders = "normalised", sigma: float = 1.0
) -> torch.Tensor:
    """Gaussian blur of (N, h, w). A blur that is padded by zeros darkens the borders, unless they are normalised."""
    offsets = torch.arange(kernel, device=maps.device, dtype=maps.dtype) - (kernel - 1) / 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    window = (weights[:, None] * weights[None, :])[None, None]
    padding = kernel // 2
    blurred = F.conv2d(maps[:, None], window, padding=padding)
    if borders == "zero":
        return blurred[:, 0] / window.sum()
    mass = F.conv2d(torch.ones_like(maps[:1, None]), window, padding=padding)
    return (blurred / mass)[:, 0]


def min_max(maps: torch.Tensor, *, per_frame: bool) -> torch.Tensor:
    """Scale (N, h, w) to [0, 1], each slice by itself or all together. A constant map becomes 0."""
    axes = (-2, -1) if per_frame else (-3, -2, -1)
    low, high = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def rolled_map(
    lvlm: LVLM,
    texts: Sequence[str],
    vision: VisionFeatures,
    *,
    layers: Sequence[int],
    heads: Heads,
    soft_prompts: SoftPrompts | None,
    prefix: PrefixSlot | None = None,
) -> torch.Tensor:
    """One grounding pass: the raw rollout on the token grid, (B, t, h, w). Differentiable in the soft prompt.

    Where ``prefix`` is given, the part of the pass that no text changes is kept there, and taken from there.
    """
    matrix = None
    placement: Placement = "before_vision"
    if soft_prompts is not None:
        matrix = soft_prompts.video if vision.kind == "video" else soft_prompts.frame
        placement = soft_prompts.placement
    inputs = lvlm.attend(texts, vision, layers=layers, soft_prompt=matrix, placement=placement, prefix=prefix)
    rollout = streaming_rollout(inputs, layers, heads=heads)
    return visual_map(rollout, inputs.token_indices, vision.grid)


def frame_map_from(
    rollout: torch.Tensor, background: torch.Tensor | None = None, borders: Borders = "normalised"
) -> torch.Tensor:
    """Raw frame rollouts (K, h, w), less those of the background where given -> the normalised frame map."""
    if background is not None:
        rollout, background = (_shares(one, per_frame=True) for one in (rollout, background))
    return min_max(_contrast(rollout, background, FRAME_KERNEL, borders), per_frame=True)


def video_map_from(
    rollout: torch.Tensor, background: torch.Tensor | None = None, borders: Borders = "normalised"
) -> torch.Tensor:
    """A raw video rollout (t, h, w), less that of the background where given -> the normalised video map."""
    if background is not None:
        rollout, background = (_shares(one, per_frame=False) for one in (rollout, background))
    return min_max(_contrast(rollout, background, VIDEO_KERNEL, borders), per_frame=False)


def _shares(rollout: torch.Tensor, *, per_frame: bool) -> torch.Tensor:
    """Each cell's share of the mass of its slice, or of all: two questions may look at the picture more or less."""
    mass = rollout.sum(dim=(-2, -1) if per_frame else (-3, -2, -1), keepdim=True)
    return rollout / mass.clamp_min(torch.finfo(rollout.dtype).tiny)


def _contrast(
    rollout: torch.Tensor, background: torch.Tensor | None, kernel: int, borders: Borders
) -> torch.Tensor:
    """A smoothed rollout, and of it what is above the background's (DecAF, which compares no shares)."""
    smoothed = smooth(rollout, kernel, borders)
    return smoothed if background is None else (smoothed - smooth(background, kernel, borders)).clamp_min(0)


def spread_video_map(
    video: torch.Tensor, count: int, grid: tuple[int, int], temporal_merge: int
) -> torch.Tensor:
    """The video map (t, h', w') on the frame grid: (count, h, w), each slice repeated for its frames."""
    repeated = video.repeat_interleave(temporal_merge, dim=0)[:count]
    return F.interpolate(repeated[:, None], size=grid, mode="bilinear", align_corners=False)[:, 0]


def fuse(
    frame: torch.Tensor | None, video: torch.Tensor | None, count: int, temporal_merge: int
) -> torch.Tensor:
    """Average the two maps on the frame grid and normalise over the clip: (count, h, w) in [0, 1]."""
    if frame is None and video is None:
        raise ValueError("at least one grounding map is needed")
    if video is None:
        assert frame is not None
        return min_max(frame, per_frame=False)
    grid = (2 * video.shape[1], 2 * video.shape[2]) if frame is None else (frame.shape[1], frame.shape[2])
    spread = spread_video_map(video, count, grid, temporal_merge)
    return min_max(spread if frame is None else 0.5 * (frame + spread), per_frame=False)


@dataclass(frozen=True)
class Rollouts:
    """What the response token of one question takes from each visual token of the keyframes.

    Attributes:
        frame: (K, h, w) float32, not negative; ``None`` when only video granularity is used.
        video: (ceil(K / 2), h', w') float32, not negative; ``None`` when only frame granularity is used.
    """

    frame: torch.Tensor | None
    video: torch.Tensor | None


@torch.no_grad()
def roll_out(
    lvlm: LVLM,
    context: VisionContext,
    question: str,
    soft_prompts: SoftPrompts | None,
    config: PipelineConfig,
    *,
    layers: Sequence[int],
    frame_batch: int | None = None,
    prefixes: VideoPrefixes | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> Rollouts:
    """Ask a question and read where the response token attends.

    Args:
        lvlm: The frozen model.
        context: Visual tokens of the keyframes.
        question: Asked about the video, and about each keyframe.
        soft_prompts: They steer the attention; ``None`` for the raw attention.
        config: Granularity and head weighting.
        layers: Text layers of the rollout.
        frame_batch: Frame passes at a time; as many as fill the device within its memory where left out.
        prefixes: Keeps the parts of the passes that do not depend on the question; nothing is kept where left out.
        tick: Called with the fraction done.
    """
    passes = _Passes(lvlm, question, soft_prompts, config.heads, tuple(layers), prefixes)
    video = frame = None
    if config.granularity != "frame":
        video = passes.rollout(context.video, 1, "video")[0]
        tick(0.2)
    if config.granularity != "video":
        count = len(context.keyframes)
        batch = frame_batch or lvlm.activations.rows_at_once(context.frames.tokens.shape[1], len(layers))
        parts = []
        for start in range(0, count, batch):
            images = context.frames[start : start + batch]
            parts.append(passes.rollout(images, len(images), (start, len(images)))[:, 0])
            tick(min(1.0, 0.2 + 0.8 * (start + len(images)) / count))
        frame = torch.cat(parts)
    return Rollouts(frame, video)


def maps_from(
    rollouts: Rollouts,
    background: Rollouts | None,
    keyframes: Sequence[int],
    temporal_merge: int,
    borders: Borders = "normalised",
) -> GroundingMaps:
    """Smooth, normalise and fuse what was rolled out, on the CPU.

    Args:
        rollouts: Of the grounding question.
        background: Of the question about the background, which is taken away; ``None`` for the plain maps.
        keyframes: Their indices in the video.
        temporal_merge: Frames of a slice of the video.
        borders: Of the smoothed maps.
    """
    behind = background or Rollouts(None, None)
    frame = None if rollouts.frame is None else frame_map_from(rollouts.frame, behind.frame, borders)
    video = None if rollouts.video is None else video_map_from(rollouts.video, behind.video, borders)
    fused = fuse(frame, video, len(keyframes), temporal_merge)
    return GroundingMaps(
        keyframes=tuple(keyframes),
        frame=None if frame is None else frame.cpu(),
        video=None if video is None else video.cpu(),
        fused=fused.cpu(),
    )


def ground(
    lvlm: LVLM,
    context: VisionContext,
    question: str,
    soft_prompts: SoftPrompts | None,
    config: PipelineConfig,
    *,
    layers: Sequence[int],
    background: str | None = None,
    frame_batch: int | None = None,
    prefixes: VideoPrefixes | None = None,
    tick: Callable[[float], None] = lambda fraction: None,
) -> GroundingMaps:
    """Ask the grounding question and make maps of where the response token attends.

    Args:
        lvlm: The frozen model.
        context: Visual tokens of the keyframes.
        question: The grounding question with expression and attributes in it.
        soft_prompts: They steer the attention; ``None`` for the raw attention.
        config: Granularity and head weighting.
        layers: Text layers of the rollout.
        background: A question whose attention is taken away from the maps; nothing is where left out. Soft prompts
            do not steer it: they are trained to find the object whatever is asked.
        frame_batch: Frame passes at a time; as many as fill the device within its memory where left out.
        prefixes: Keeps the parts of the passes that do not depend on the question; nothing is kept where left out.
        tick: Called with the fraction done.
    """
    share = 1.0 if background is None else 0.5

    def asked(text: str, steering: SoftPrompts | None, done: float) -> Rollouts:
        return roll_out(
            lvlm,
            context,
            text,
            steering,
            config,
            layers=layers,
            frame_batch=frame_batch,
            prefixes=prefixes,
            tick=lambda fraction: tick(done + share * fraction),
        )

    rollouts = asked(question, soft_prompts, 0.0)
    behind = None if background is None else asked(background, None, share)
    return maps_from(rollouts, behind, context.keyframes, lvlm.family.temporal_merge, config.borders)


@dataclass(frozen=True)
class _Passes:
    """The grounding passes of one question: all that they have in common."""

    lvlm: LVLM
    question: str
    soft_prompts: SoftPrompts | None
    heads: Heads
    layers: tuple[int, ...]
    prefixes: VideoPrefixes | None

    def rollout(self, vision: VisionFeatures, rows: int, part: Hashable) -> torch.Tensor:
        """The raw rollout (rows, t, h, w) of one pass; ``part`` tells its prefix from those of the others."""
        steering = None if self.soft_prompts is None else self.soft_prompts.digest
        prefix = None if self.prefixes is None else self.prefixes.slot((steering, self.layers), part)
        return rolled_map(
            self.lvlm,
            [self.question] * rows,
            vision,
            layers=self.layers,
            heads=self.heads,
            soft_prompts=self.soft_prompts,
            prefix=prefix,
        )
