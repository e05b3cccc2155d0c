"""``python -m benchmarks.fidelity``: J&F of the demo under each choice of published code, one at a time and together.

The demo's soft prompts were trained under its own settings, and stay as they are: a choice that they would have to be
trained for anew shows at a disadvantage.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from tqdm import tqdm

from benchmarks.fidelity.clips import paired_rows, questions
from steerseg.config import PUBLISHED, PipelineConfig, SegmenterConfig
from steerseg.evaluation.metrics import score
from steerseg.evaluation.runner import processor
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

    def same_as(self, other: Choice) -> bool:
        """Whether the settings are equal."""
        return (self.pipeline, self.segmenter) == (other.pipeline, other.segmenter)


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
        for choice in wanted:
            if choice.name != OWN and choice.same_as(wanted[0]):
                found[choice.name].append(found[OWN][-1])
                continue
            steerseg = pipelines[choice.segmenter]
            proposal = steerseg.propose(question.video, question.expression, config=choice.pipeline)
            masks = proposal.best.masks if proposal.tracklets else question.truth & False
            found[choice.name].append(score(masks, question.truth).jf)
        for steerseg in pipelines.values():
            steerseg.forget()
    print(
        f"\n{options.clips} clips of {options.split}, preset {options.preset} on {options.device} "
        f"({processor()}); 95 % intervals over clips\n\n| choice | J&F | gain |\n|---|---|---|"
    )
    for name, mean, gain in paired_rows(found, OWN):
        print(f"| {name} | {mean} | {gain} |")


if __name__ == "__main__":
    main()
