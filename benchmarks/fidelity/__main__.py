"""``python -m benchmarks.fidelity``: J&F of the demo under each choice of published code, one at a time and together.

The demo's soft prompts were trained under its own settings, and stay as they are: a choice that they would have to be
trained for anew shows at a disadvantage. J&F is that of the best candidate on the keyframes, where all choices act.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from tqdm import tqdm

from benchmarks.fidelity.clips import Question, paired_rows, questions
from steerseg.config import PUBLISHED, PipelineConfig, SegmenterConfig
from steerseg.evaluation.metrics import score
from steerseg.evaluation.runner import processor
from steerseg.grounding import GroundingMaps
from steerseg.lvlm.families.base import GridRule
from steerseg.pipeline import SteerSeg
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Tracker

OWN, TOGETHER = "the demo's own", "all of published"
COMPARED = ("seconds_per_slice", "grid", "enlarge", "borders", "expression_form", "conditioning")


@dataclass(frozen=True)
class Choice:
    """One row: a name, and the settings under it."""

    name: str
    pipeline: PipelineConfig
    segmenter: SegmenterConfig


def choices(own: PipelineConfig, segmenter: SegmenterConfig) -> Iterator[Choice]:
    """A preset's own settings, each published one in its place, and all together."""
    yield Choice(OWN, own, segmenter)
    for name in COMPARED:
        published = getattr(PUBLISHED.pipeline, name)
        yield Choice(f"`{name}`: {published}", replace(own, **{name: published}), segmenter)
    for field in fields(SegmenterConfig):
        published = getattr(PUBLISHED.segmenter, field.name)
        yield Choice(f"`{field.name}`: {published}", own, replace(segmenter, **{field.name: published}))
    together = {name: getattr(PUBLISHED.pipeline, name) for name in COMPARED}
    yield Choice(TOGETHER, replace(own, **together), PUBLISHED.segmenter)


class _Clip:
    """One question under each choice; what two choices have in common is computed once.

    Args:
        pipelines: By the segmenter's settings, over one language model.
        question: The question.
    """

    def __init__(self, pipelines: Mapping[SegmenterConfig, SteerSeg], question: Question) -> None:
        self._pipelines = pipelines
        self._question = question
        self._attributes: dict[object, tuple[str, ...]] = {}
        self._maps: dict[object, GroundingMaps] = {}
        self._scores: dict[object, float] = {}

    def score(self, choice: Choice) -> float:
        """J&F of the best candidate on the keyframes."""
        config, video = choice.pipeline, self._question.video
        lvlm = self._pipelines[choice.segmenter].lvlm
        sizes = lvlm.family.sizes(
            video.height,
            video.width,
            video_tokens=self._budget,
            frame_tokens=4 * self._budget,
            rule=GridRule(config.grid, config.enlarge),
        )
        # The rule of the grid counts by what it makes of this clip.
        seen = sizes, config.seconds_per_slice, config.expression_form
        key = seen, config.borders, config.conditioning, choice.segmenter
        if key not in self._scores:
            self._scores[key] = self._measure(choice, seen)
        return self._scores[key]

    @property
    def _budget(self) -> int:
        return next(iter(self._pipelines.values())).preset.video_tokens

    def _measure(self, choice: Choice, seen: object) -> float:
        config, question = choice.pipeline, self._question
        steerseg = self._pipelines[choice.segmenter]
        features = steerseg.encode(question.video, config)
        if seen not in self._attributes:
            self._attributes[seen] = steerseg.reason(features, question.expression, config).attributes
        mapped = seen, config.borders
        if mapped not in self._maps:
            self._maps[mapped] = steerseg.ground(
                features, question.expression, self._attributes[seen], config, steerseg.steering(config)
            )
        maps = self._maps[mapped]
        candidates = steerseg.find_candidates(features, maps, config)
        ranking = steerseg.rank(candidates, maps, config)
        truth = question.truth[list(maps.keyframes)]
        masks = candidates.on_keyframes.masks(ranking[0].index) if ranking else np.zeros_like(truth)
        return score(masks, truth).jf


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("--split", default="val")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    own = SteerSeg.from_pretrained(options.preset, device=options.device)
    wanted = list(choices(replace(own.config, alternatives=1), own.preset.segmenter_config))
    pipelines = {own.preset.segmenter_config: own}
    for choice in wanted:
        if choice.segmenter not in pipelines:
            segmenter = own.tracker.segmenter
            tracker = Tracker(Sam2(segmenter.model, version=segmenter.version, config=choice.segmenter))
            pipelines[choice.segmenter] = SteerSeg(own.lvlm, tracker, own.preset, own.soft_prompts)
    found: dict[str, list[float]] = {choice.name: [] for choice in wanted}
    for question in tqdm(questions(options.split, options.clips), total=options.clips):
        clip = _Clip(pipelines, question)
        for choice in wanted:
            found[choice.name].append(clip.score(choice))
        for steerseg in pipelines.values():
            steerseg.forget()
    print(
        f"\n{options.clips} clips of {options.split}, preset {options.preset} on {options.device} "
        f"({processor()}); J&F on the keyframes, 95 % "
        "intervals over clips\n\n| choice | J&F | gain |\n|---|---|---|"
    )
    for name, mean, gain in paired_rows(found, OWN):
        print(f"| {name} | {mean} | {gain} |")


if __name__ == "__main__":
    main()
