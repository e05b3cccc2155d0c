"""Expressions of a dataset as training samples.

A sample depends on nothing but the data, the seed and its epoch, never on the process that makes it or on earlier
samples. So several processes, or a run that is resumed, use the samples of one uninterrupted process.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.config import TrainingRecipe
from steerseg.evaluation.sample import Sample
from steerseg.grounding import VisionContext
from steerseg.keyframes import show_keyframes, timing_of
from steerseg.lvlm import LVLM
from steerseg.presets import Preset
from steerseg.reasoning import attributes_of, check_expression, expression_as
from steerseg.runtime.lru import LruCache
from steerseg.training.sample import TrainingSample
from steerseg.video import keyframe_indices

# Streams of random numbers: one for each purpose, so that no two draws depend on each other.
_IMAGE_STREAM, _ATTRIBUTE_STREAM, ORDER_STREAM = range(3)


@dataclass(frozen=True)
class SampleFiles:
    """Content of a sample's files. Reading needs no model, so it is done while the last step computes.

    Attributes:
        index: Of the sample.
        frames: (K, H, W, 3) uint8, its keyframes; ``None`` where their visual tokens are in the cache.
        masks: (K, H, W) bool, the true masks on them.
    """

    index: int
    frames: NDArray[np.uint8] | None
    masks: NDArray[np.bool_]


class Examples:
    """Makes training samples.

    Args:
        lvlm: The frozen model.
        preset: Keyframes, budgets and questions.
        samples: The dataset's, with their truth.
        seed: Of every choice.
        pictures: Keyframes of a clip that are encoded as images.
        frames_per_sample: Images with the object on them that a sample has.
        attributes: Share in [0, 1] of samples whose question holds the model's own attributes, as in use; the
            others have none, so that the prompts serve with and without reasoning.
        cache_bytes: Memory for the visual tokens of the clips that were used last.
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
        self._config = preset.config
        self._samples = samples
        self._seed = seed
        self._pictures = pictures
        self._frames_per_sample = frames_per_sample
        self._attributes = attributes
        self._contexts = LruCache[tuple[str, tuple[str, ...]], VisionContext](cache_bytes, weigh=_bytes)

    @classmethod
    def of(
        cls, recipe: TrainingRecipe, lvlm: LVLM, preset: Preset, samples: Sequence[Sample], cache_bytes: int
    ) -> Examples:
        """The examples of a recipe."""
        return cls(
            lvlm,
            preset,
            samples,
            seed=recipe.seed,
            pictures=recipe.pictures,
            frames_per_sample=recipe.frames_per_sample,
            attributes=recipe.attributes,
            cache_bytes=cache_bytes,
        )

    def _rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, purpose, *numbers])

    def _keyframes(self, sample: Sample) -> tuple[int, ...]:
        return keyframe_indices(len(sample.frames), self._preset.keyframes)

    def read(self, index: int) -> SampleFiles:
        """Read a sample's files. Any thread may.

        Raises:
            VideoError: A frame is missing or cannot be read.
            ConfigError: A mask is missing or cannot be read.
        """
        sample = self._samples[index]
        keyframes = self._keyframes(sample)
        frames = None if sample.clip in self._contexts else sample.load(keyframes).frames
        return SampleFiles(index, frames, sample.masks(keyframes))

    def make(self, files: SampleFiles, epoch: int) -> TrainingSample:
        """Encode the keyframes and ask for the attributes, where the sample's question holds them."""
        sample = self._samples[files.index]
        context, images = self._encode(sample, files.frames)
        # Images without the object teach nothing.
        teaching = [position for position, k in enumerate(images) if files.masks[k].any()] or [0]
        rng = self._rng(_IMAGE_STREAM, epoch, files.index)
        chosen = sorted(rng.permutation(teaching)[: self._frames_per_sample].tolist())
        expression = check_expression(sample.expression)
        attributes = self._own_attributes(context, expression, files.index, epoch)
        return TrainingSample.from_masks(
            replace(context, frames=context.frames[chosen]),
            self._texts.grounding_question(
                expression_as(self._config.expression_form, expression), attributes
            ),
            files.masks,
            self._lvlm.family.temporal_merge,
            pictures=[images[position] for position in chosen],
        )

    def _encode(self, sample: Sample, frames: NDArray[np.uint8] | None) -> tuple[VisionContext, list[int]]:
        """A clip's visual tokens, on the CPU, and the indices of the keyframes among its images."""
        keyframes = self._keyframes(sample)
        # Chosen by clip, so that its expressions share them.
        choice = self._rng(_IMAGE_STREAM, zlib.crc32(sample.video.encode())).permutation(len(keyframes))
        images = sorted(choice[: self._pictures].tolist())
        context = self._contexts.get(sample.clip)
        if context is None:
            if (
                frames is None
            ):  # the tokens were in the cache when the files were read, and were dropped since
                frames = sample.load(keyframes).frames
            encoded = show_keyframes(
                self._lvlm,
                self._preset,
                self._config,
                frames,
                keyframes,
                timing_of(
                    np.arange(len(sample.frames)) / sample.fps,
                    len(sample.frames) / sample.fps,
                    keyframes,
                    self._config,
                    self._lvlm.family.temporal_merge,
                ),
                pictures=images,
            )
            cpu = torch.device("cpu")
            context = replace(encoded, video=encoded.video.to(cpu), frames=encoded.frames.to(cpu))
            if _bytes(context) <= self._contexts.capacity:
                self._contexts.put(sample.clip, context)
        return context, images

    def _own_attributes(
        self, context: VisionContext, expression: str, index: int, epoch: int
    ) -> tuple[str, ...]:
        if self._rng(_ATTRIBUTE_STREAM, epoch, index).random() >= self._attributes:
            return ()
        return attributes_of(
            self._lvlm,
            context.video.to(self._lvlm.device),
            expression,
            self._texts,
            self._config,
        )


def _bytes(context: VisionContext) -> int:
    return context.video.nbytes + context.frames.nbytes
