"""Expressions of a dataset as training samples.

A sample depends on nothing but the data, the seed and its epoch, never on which process makes it or on what was
made before: so several processes, or a run taken up again, see what one uninterrupted process sees.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.evaluation.sample import Sample
from steerseg.grounding import VisionContext, encode_keyframes, slice_seconds
from steerseg.lvlm import LVLM
from steerseg.presets import Preset
from steerseg.reasoning import attributes_of, check_expression
from steerseg.training.trainer import TrainingSample
from steerseg.video import keyframe_indices

# What the random numbers of a sample are for, so that no two draws depend on each other.
_PICTURES, _ATTRIBUTES, _ORDER = range(3)


def data_order(videos: Sequence[str], *, seed: int, epoch: int, window: int) -> list[int]:
    """The order of an epoch: each sample once, by its index.

    Clips are shuffled, and so are the expressions of every ``window`` clips that follow each other. That is close
    to a shuffle of everything, yet a clip's expressions come near enough to share its visual tokens.

    Args:
        videos: The clip of each sample.
        seed: Of the run.
        epoch: From 0.
        window: Clips that are mixed.
    """
    rng = np.random.default_rng([seed, epoch, _ORDER])
    members: dict[str, list[int]] = {}
    for index, video in enumerate(videos):
        members.setdefault(video, []).append(index)
    clips = list(members.values())
    shuffled = [clips[place] for place in rng.permutation(len(clips))]
    order: list[int] = []
    for start in range(0, len(shuffled), window):
        mixed = [index for clip in shuffled[start : start + window] for index in clip]
        order += rng.permutation(mixed).tolist()
    return order


@dataclass(frozen=True)
class Opened:
    """A sample's files, read. No model is needed for it, so it is done while the last step computes.

    Attributes:
        index: Of the sample.
        frames: (K, H, W, 3) uint8, its keyframes; ``None`` where their visual tokens were kept.
        masks: (K, H, W) bool, the truth on them.
    """

    index: int
    frames: NDArray[np.uint8] | None
    masks: NDArray[np.bool_]


class _Kept:
    """Visual tokens of the clips that were used last, in at most so many bytes of the machine's memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._contexts: OrderedDict[str, VisionContext] = OrderedDict()

    def __contains__(self, video: str) -> bool:
        return video in self._contexts

    def get(self, video: str) -> VisionContext | None:
        context = self._contexts.get(video)
        if context is not None:
            self._contexts.move_to_end(video)
        return context

    def put(self, video: str, context: VisionContext) -> None:
        if video not in self._contexts:
            self._contexts[video] = context
            self._size += _bytes(context)
        while self._size > self._limit and self._contexts:
            self._size -= _bytes(self._contexts.popitem(last=False)[1])


def _bytes(context: VisionContext) -> int:
    return context.video.nbytes + context.frames.nbytes


class Examples:
    """Makes training samples.

    Args:
        lvlm: The frozen model.
        preset: Keyframes, budgets and questions.
        samples: The dataset's, with their truth.
        seed: Of every choice.
        pictures: Keyframes of a clip that are shown as images.
        frames_per_sample: How many of these, with the object on them, a sample has.
        attributes: Share in [0, 1] of samples whose question holds what the model itself says tells the object
            apart, as in use; the others have none, so that the prompts serve with and without reasoning.
        cache_bytes: Memory for visual tokens.
    """

    def __init__(
        self,
        lvlm: LVLM,
        preset: Preset,
        samples: Sequence[Sample],
        *,
        seed: int,
        pictures: int,
        frames_per_sample: int,
        attributes: float,
        cache_bytes: int,
    ) -> None:
        self._lvlm = lvlm
        self._preset = preset
        self._texts = preset.texts
        self._samples = samples
        self._seed = seed
        self._pictures = pictures
        self._frames_per_sample = frames_per_sample
        self._attributes = attributes
        self._kept = _Kept(cache_bytes)

    def _rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, purpose, *numbers])

    def _keyframes(self, sample: Sample) -> tuple[int, ...]:
        return keyframe_indices(len(sample.frames), self._preset.keyframes)

    def open(self, index: int) -> Opened:
        """Read a sample's files. Any thread may.

        Raises:
            VideoError: A frame is missing or cannot be read.
            ConfigError: A mask is missing or cannot be read.
        """
        sample = self._samples[index]
        keyframes = self._keyframes(sample)
        frames = None if sample.video in self._kept else sample.load(keyframes).frames
        return Opened(index, frames, sample.masks(keyframes))

    def make(self, opened: Opened, epoch: int) -> TrainingSample:
        """Show the keyframes to the vision tower and ask for the attributes, where they are wanted."""
        sample = self._samples[opened.index]
        context, shown = self._see(sample, opened.frames)
        # Images without the object teach nothing.
        teaching = [place for place, k in enumerate(shown) if opened.masks[k].any()] or [0]
        rng = self._rng(_PICTURES, epoch, opened.index)
        chosen = sorted(rng.permutation(teaching)[: self._frames_per_sample].tolist())
        expression = check_expression(sample.expression)
        attributes = self._own_attributes(context, expression, opened.index, epoch)
        return TrainingSample.from_masks(
            replace(context, frames=context.frames[chosen]),
            self._texts.grounding_question(expression, attributes),
            opened.masks,
            self._lvlm.family.temporal_merge,
            pictures=[shown[place] for place in chosen],
        )

    def _see(self, sample: Sample, frames: NDArray[np.uint8] | None) -> tuple[VisionContext, list[int]]:
        """A clip's visual tokens, on the CPU, and which of its keyframes are there as images."""
        keyframes = self._keyframes(sample)
        # Chosen by clip, so that its expressions share them.
        choice = self._rng(_PICTURES, zlib.crc32(sample.video.encode())).permutation(len(keyframes))
        shown = sorted(choice[: self._pictures].tolist())
        context = self._kept.get(sample.video)
        if context is None:
            if frames is None:  # the tokens that were there when the files were read have made room since
                frames = sample.load(keyframes).frames
            seen = encode_keyframes(
                self._lvlm,
                frames,
                keyframes,
                budget=self._preset.video_tokens,
                frame_budget=self._preset.frame_tokens,
                seconds_per_slice=self._preset.seconds_per_slice
                or slice_seconds(
                    (len(sample.frames) - 1) / sample.fps, len(keyframes), self._lvlm.family.temporal_merge
                ),
                frame_batch=self._preset.frame_batch,
                pictures=shown,
            )
            cpu = torch.device("cpu")
            context = replace(seen, video=seen.video.to(cpu), frames=seen.frames.to(cpu))
            self._kept.put(sample.video, context)
        return context, shown

    def _own_attributes(
        self, context: VisionContext, expression: str, index: int, epoch: int
    ) -> tuple[str, ...]:
        if self._rng(_ATTRIBUTES, epoch, index).random() >= self._attributes:
            return ()
        return attributes_of(
            self._lvlm,
            context.video.to(self._lvlm.device),
            expression,
            self._texts,
            self._preset.config,
        )
