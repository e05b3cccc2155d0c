"""All variants on one clip, each stage run once for those that share it and timed as if each ran alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.config import PipelineConfig
from steerseg.evaluation.diagnosis import LONGEST_NAME, pointing, same_name
from steerseg.evaluation.metrics import Scores, score
from steerseg.evaluation.results import Result, StageSeconds
from steerseg.evaluation.sample import Sample
from steerseg.evaluation.submission import MaskFolder
from steerseg.evaluation.variants import Variant
from steerseg.grounding import GroundingMaps
from steerseg.keyframes import VideoFeatures
from steerseg.pipeline import SteerSeg
from steerseg.presence.judge import Case
from steerseg.ranking import RankedCandidate
from steerseg.reasoning import check_expression, expression_as
from steerseg.tracking import Prompt
from steerseg.tracking.sources import Candidates
from steerseg.video import Video, keyframe_indices
from steerseg.words.reading import Reading

Mask = NDArray[np.bool_]

UNKNOWN = Scores(j=math.nan, f=math.nan)
"""Scores of a sample that only the dataset's server can score."""


@dataclass(frozen=True)
class ClipJob:
    """The samples of one clip, each with the variants that are still missing.

    Attributes:
        wanted: The samples with their variants.
        masks: Keeps predicted masks; ``None`` where they are not kept.
    """

    wanted: tuple[tuple[Sample, tuple[Variant, ...]], ...]
    masks: MaskFolder | None = None

    @property
    def size(self) -> int:
        """Number of results."""
        return sum(len(variants) for _, variants in self.wanted)


def measure_clip(steerseg: SteerSeg, job: ClipJob) -> list[tuple[str, Result]]:
    """Results of a clip, each with its variant's name.

    Raises:
        VideoError: The clip lacks frames.
        ConfigError: The clip lacks annotations.
    """
    clip = ClipStages(steerseg, job.wanted[0][0].load(), job.masks)
    return [
        (variant.name, clip.measure(sample, variant))
        for sample, variants in job.wanted
        for variant in variants
    ]


def best_click(mask: Mask) -> tuple[float, float]:
    """The position (x, y) in [0, 1] of the pixel of a mask (H, W) that is farthest from its border."""
    # The picture's edge is a border too.
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), mask.shape)
    return (float(column) + 0.5) / mask.shape[1], (float(row) + 0.5) / mask.shape[0]


@dataclass(frozen=True)
class _Timed:
    value: Any
    seconds: float


@dataclass(frozen=True)
class _Prediction:
    """A variant's masks for a sample; ``key`` is equal for predictions with the same masks."""

    key: Hashable
    masks: Mask
    seconds: StageSeconds
    attributes: tuple[str, ...] = ()
    score: float = 0.0
    maps: GroundingMaps | None = None


class ClipStages:
    """One clip with the results of the stages that have run on it.

    Args:
        steerseg: The loaded pipeline.
        video: The clip.
        masks: Keeps predicted masks; they are not kept if left out.
    """

    def __init__(self, steerseg: SteerSeg, video: Video, masks: MaskFolder | None = None) -> None:
        self.steerseg = steerseg
        self.video = video
        self._masks = masks
        self._values: dict[Hashable, _Timed] = {}
        self._truth: tuple[str, Mask, Mask | None] | None = None

    def measure(self, sample: Sample, variant: Variant) -> Result:
        """Run a variant on one of the clip's expressions and score it, where its truth is known."""
        prediction = self._click(sample) if variant.click else self._propose(sample, variant)
        if self._masks is not None:
            self._masks.write(variant.name, sample, prediction.masks)
        target, void = self._target(sample)
        scores = UNKNOWN
        if target is not None:
            scores = self._once(
                ("scores", prediction.key), lambda: score(prediction.masks, target, void)
            ).value
        answer = None
        if sample.name and prediction.maps is not None:
            answer = self._answer(sample, prediction.attributes, variant.config(self.steerseg.config))
        return Result(
            id=sample.id,
            video=sample.video,
            expression=sample.expression,
            kind=sample.kind,
            twin=sample.twin,
            frames=len(self.video),
            j=scores.j,
            f=scores.f,
            score=prediction.score,
            seconds=prediction.seconds,
            attributes=prediction.attributes,
            true_attributes=sample.attributes,
            name=sample.name,
            answer=answer,
            named=None if answer is None else same_name(answer, sample.name),
            pointing=None if prediction.maps is None or target is None else pointing(prediction.maps, target),
        )

    def _target(self, sample: Sample) -> tuple[Mask | None, Mask | None]:
        """The true masks and the void pixels; the last sample's are kept, since its variants follow each other."""
        if sample.truth is None:
            return None, None
        if self._truth is None or self._truth[0] != sample.id:
            self._truth = (sample.id, sample.masks(), sample.void())
        return self._truth[1:]

    def _once(self, key: Hashable, make: Callable[[], Any]) -> _Timed:
        """The value for ``key``, made on the first call, with the seconds that took."""
        if key not in self._values:
            start = self._now()
            value = make()
            self._values[key] = _Timed(value, self._now() - start)
        return self._values[key]

    def _now(self) -> float:
        if self.steerseg.lvlm.device.type == "cuda":
            torch.cuda.synchronize(self.steerseg.lvlm.device)
        return time.perf_counter()

    def _encode(self, config: PipelineConfig) -> tuple[VideoFeatures, StageSeconds]:
        """All features of the clip, so that no variant pays for another's."""
        steerseg = self.steerseg
        features = self._once(("encode", config.keyframes), lambda: steerseg.encode(self.video, config))
        frames = self._once(
            ("frames", config.keyframes), lambda: steerseg.tracker.encode(features.value.encoded)
        )
        return features.value, StageSeconds(keyframes=features.seconds, frames=frames.seconds)

    def _propose(self, sample: Sample, variant: Variant) -> _Prediction:
        """As :meth:`SteerSeg.propose`, stage by stage."""
        steerseg = self.steerseg
        config = variant.config(steerseg.config)
        steering = steerseg.steering(config, variant.soft_prompts)
        expression = check_expression(sample.expression)
        features, seconds = self._encode(config)

        limits = (config.keyframes, config.max_new_tokens, config.attribute_confidence)
        reasoned = self._once(
            ("reason", sample.id, config.reasoning, config.reasoning_steps, limits),
            lambda: steerseg.reason(features, expression, config),
        )
        attributes: tuple[str, ...] = reasoned.value.attributes
        key = (sample.id, attributes, None if steering is None else steering.digest, _up_to_ranking(config))
        grounded = self._once(
            ("ground", key), lambda: steerseg.ground(features, expression, attributes, config, steering)
        )
        maps: GroundingMaps = grounded.value
        searched = self._once(
            ("find", key),
            lambda: steerseg.find_candidates(features, maps, config, said=(expression, *attributes)),
        )
        located = self._once(
            ("locate", sample.id, attributes, config.localisation, config.keyframes),
            lambda: steerseg.locate(features, expression, attributes, config),
        )
        reading, said = Reading(expression), reasoned.value.said
        case = Case(self.video, reading, said, maps, searched.value.on_keyframes, features.context)
        chosen = self._once(
            ("choose", key, config, located.value),
            lambda: steerseg.choose(case, features, searched.value, located.value, config, steering),
        )
        candidates: Candidates = chosen.value[0]
        case = replace(case, on_keyframes=candidates.on_keyframes)
        verified = self._once(
            ("verify", key, config.verification, config.motion, chosen.value[1]),
            lambda: steerseg.verify(case, chosen.value[1], config),
        )
        ranking: tuple[RankedCandidate, ...] = verified.value
        best = (key, config.motion, tuple(ranked.index for ranked in ranking))
        tracked = self._once(("track", best), lambda: steerseg.track(features, candidates, ranking))
        return _Prediction(
            key=best,
            masks=tracked.value[0].masks if ranking else np.zeros(self.video.frames.shape[:3], dtype=bool),
            seconds=replace(
                seconds,
                reasoning=reasoned.seconds + located.seconds,
                grounding=grounded.seconds,
                candidates=searched.seconds + chosen.seconds + verified.seconds,
                tracking=tracked.seconds,
            ),
            attributes=attributes,
            score=ranking[0].score if ranking else 0.0,
            maps=maps,
        )

    def _click(self, sample: Sample) -> _Prediction:
        """A click into each target where it is largest, among the keyframes where it is on one."""
        steerseg = self.steerseg
        features, seconds = self._encode(steerseg.config)
        keyframes = keyframe_indices(len(self.video), steerseg.config.keyframes)
        prompts = [prompt for target in sample.targets() if (prompt := _click_prompt(target, keyframes))]
        started = self._once(
            ("click", sample.id),
            lambda: [steerseg.tracker.start(features.encoded, [prompt]) for prompt in prompts],
        )
        tracked = self._once(
            ("click track", sample.id), lambda: steerseg.tracker.propagate(features.encoded, started.value)
        )
        masks = np.zeros(self.video.frames.shape[:3], dtype=bool)
        for index in range(len(prompts)):
            masks |= tracked.value.masks(index)
        return _Prediction(
            key=("click", sample.id),
            masks=masks,
            seconds=replace(seconds, candidates=started.seconds, tracking=tracked.seconds),
            score=float(bool(prompts)),
        )

    def _answer(self, sample: Sample, attributes: tuple[str, ...], config: PipelineConfig) -> str:
        """The answer to the grounding question; soft prompts never take part in an answer."""
        steerseg = self.steerseg
        question = steerseg.texts.grounding_question(
            expression_as(config.expression_form, check_expression(sample.expression)), attributes
        )
        features, _ = self._encode(config)
        answer: str = self._once(
            ("answer", question),
            lambda: steerseg.lvlm.answer(question, features.context.video, max_new_tokens=LONGEST_NAME).text,
        ).value
        return answer


def _up_to_ranking(config: PipelineConfig) -> PipelineConfig:
    """What candidates depend on: the attributes and prompts themselves, not how they came about, nor any weight."""
    return replace(
        config,
        reasoning=True,
        soft_prompts=True,
        max_new_tokens=0,
        frame_weight=0.0,
        localisation=False,
        motion=False,
        verification="off",
        reasoning_steps=1,
    )


def _click_prompt(masks: Mask, keyframes: Sequence[int]) -> Prompt | None:
    """A click on the target's masks (T, H, W); ``None`` where it is never visible."""
    areas = masks.sum(axis=(1, 2))
    frame = max(keyframes, key=lambda k: int(areas[k]))
    if not areas[frame]:
        frame = int(areas.argmax())
    if not areas[frame]:
        return None
    return Prompt(frame, (best_click(masks[frame]),), (True,))
