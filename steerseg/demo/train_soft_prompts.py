"""Train the demo preset's soft prompts on rendered clips, with the objective of :mod:`steerseg.refine`.

Command: ``python -m steerseg.demo.train_soft_prompts --out DIR --steps 1000``. The vision tower stands before
the prompts and is frozen, so the clips' visual tokens are made once and used again for every step.

``log.jsonl`` in DIR has the loss every few steps and, now and then, what the maps are worth on clips that
training never sees: the share of expressions with a point prompt on the target (``hit``), and with the target
ranked first among the scene's true masks (``rank``), both with the model's own attributes and without any.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from steerseg.config import Heads, PipelineConfig, Placement
from steerseg.demo.language import Referral, referrals
from steerseg.demo.sprites import Atlas, load_atlas
from steerseg.demo.world import VARIED_SIZES, WorldSpec, collate, render, sample_scene
from steerseg.demo.world import keyframes as scene_keyframes
from steerseg.grounding import VisionContext, ground, see
from steerseg.lvlm import LVLM
from steerseg.points import point_prompts
from steerseg.presets import Preset, find_preset, load_preset
from steerseg.ranking import rank_scores
from steerseg.reasoning import attributes_of
from steerseg.refine import RefineConfig, SoftPromptTrainer, TrainingSample
from steerseg.soft_prompts import SoftPrompts

TRAINING_WORLD = WorldSpec(sizes=VARIED_SIZES, frames=(24, 72), photos=0.35)
VALIDATION_WORLD = WorldSpec(pairs="any", photos=0.35)
VALIDATION_SEED = 40_404
PICTURES = 4  # keyframes of a training clip that are encoded as images
MOST_ATTRIBUTE_TOKENS = 48


@dataclass(frozen=True)
class SeenClip:
    """One rendered clip as the vision tower saw it.

    Attributes:
        context: Its visual tokens.
        pictures: Which keyframes are there as images.
        ids: (K, H, W) 1 + index of the object under each pixel of the keyframes; 0 is the background.
        referrals: Expressions about it, none of several objects.
    """

    context: VisionContext
    pictures: tuple[int, ...]
    ids: torch.Tensor
    referrals: tuple[Referral, ...]


def seen_clips(
    lvlm: LVLM, preset: Preset, spec: WorldSpec, rng: np.random.Generator, *, pictures: int, expressions: int
) -> Iterator[SeenClip]:
    """Render clips and show them to the model, without end."""
    atlas: Atlas = load_atlas(spec.styles)
    while True:
        scene = sample_scene(rng, spec)
        keyframes = scene_keyframes([scene], preset.keyframes)
        images, ids = render(collate([scene]), atlas, keyframes, device=lvlm.device)
        shown = sorted(rng.permutation(preset.keyframes)[:pictures].tolist())
        context = see(
            lvlm,
            images[0].permute(0, 2, 3, 1).cpu().numpy(),
            keyframes[0].tolist(),
            budget=preset.video_tokens,
            seconds_per_slice=preset.seconds_per_slice or 1.0,
            frame_batch=preset.frame_batch,
            pictures=shown,
        )
        choices = [referral for referral in referrals(scene, rng) if referral.kind != "plural"]
        rng.shuffle(choices)  # type: ignore[arg-type]
        choices.sort(key=_turns(choices))
        if choices:
            yield SeenClip(context, tuple(shown), ids[0].cpu(), tuple(choices[:expressions]))


def _turns(choices: list[Referral]) -> Any:
    """A key that lets the kinds of expression take turns."""
    seen: dict[str, int] = defaultdict(int)
    turn: dict[int, int] = {}
    for choice in choices:
        turn[id(choice)] = seen[choice.kind]
        seen[choice.kind] += 1
    return lambda choice: turn[id(choice)]


def training_samples(
    lvlm: LVLM, preset: Preset, clip: SeenClip, rng: np.random.Generator, own_attributes: float
) -> Iterator[TrainingSample]:
    """The clip's expressions as samples.

    Attributes are the frozen model's own, as in use, with probability ``own_attributes``, which is slow; of the
    rest, half are the true ones and half are left out, so that the prompts serve with and without reasoning.
    """
    for referral in clip.referrals:
        attributes: tuple[str, ...] = ()
        if rng.random() < own_attributes:
            attributes = _own_attributes(lvlm, preset, clip, referral)
        elif rng.random() < 0.5:
            attributes = referral.attributes
        wanted = torch.tensor([target + 1 for target in referral.targets])
        others = [number for number in clip.ids.unique().tolist() if number and number not in wanted]
        yield TrainingSample.from_masks(
            clip.context,
            preset.texts.grounding_question(referral.expression, attributes),
            torch.isin(clip.ids, wanted).numpy(),
            lvlm.family.temporal_merge,
            pictures=clip.pictures,
            rejected=np.stack([(clip.ids == number).numpy() for number in others]) if others else None,
        )


def _own_attributes(lvlm: LVLM, preset: Preset, clip: SeenClip, referral: Referral) -> tuple[str, ...]:
    return attributes_of(
        lvlm, clip.context.video, referral.expression, preset.texts, max_new_tokens=MOST_ATTRIBUTE_TOKENS
    )


class Validation:
    """Held-out clips, and what the maps of a pair of prompts are worth on them.

    Args:
        lvlm: The model.
        preset: Questions and budgets.
        layers: Text layers of the rollout.
        clips: How many clips; up to four expressions of each.
        heads: Head weighting of the rollout.
    """

    def __init__(self, lvlm: LVLM, preset: Preset, layers: tuple[int, ...], clips: int, heads: Heads) -> None:
        self._lvlm, self._preset, self._layers = lvlm, preset, layers
        self._config = replace(preset.config, heads=heads)
        stream = seen_clips(
            lvlm,
            preset,
            VALIDATION_WORLD,
            np.random.default_rng(VALIDATION_SEED),
            pictures=preset.keyframes,
            expressions=4,
        )
        self._asked = [
            (clip, referral, _own_attributes(lvlm, preset, clip, referral))
            for clip, _ in zip(stream, range(clips), strict=False)
            for referral in clip.referrals
        ]

    def __call__(self, prompts: SoftPrompts | None) -> dict[str, float]:
        """``hit``, ``rank``, and both ``_raw``: without attributes. All in [0, 1]."""
        found: dict[str, list[float]] = defaultdict(list)
        steering = None if prompts is None else prompts.to(self._lvlm.device)
        for clip, referral, own in self._asked:
            for suffix, attributes in (("", own), ("_raw", ())):
                hit, first = self._worth(clip, referral, attributes, steering, self._config)
                found[f"hit{suffix}"].append(hit)
                found[f"rank{suffix}"].append(first)
        return {name: round(float(np.mean(values)), 3) for name, values in found.items()}

    def _worth(
        self,
        clip: SeenClip,
        referral: Referral,
        attributes: tuple[str, ...],
        steering: SoftPrompts | None,
        config: PipelineConfig,
    ) -> tuple[float, float]:
        maps = ground(
            self._lvlm,
            clip.context,
            self._preset.texts.grounding_question(referral.expression, attributes),
            steering,
            config,
            layers=self._layers,
            frame_batch=self._preset.keyframes,
        )
        height, width = clip.ids.shape[1:]
        place = {frame: k for k, frame in enumerate(maps.keyframes)}
        owners = {
            int(clip.ids[place[point.frame], int(point.y * height), int(point.x * width)])
            for point in point_prompts(maps, config)
        }
        objects = [int(number) for number in clip.ids.unique() if number > 0]
        masks = torch.stack([clip.ids == number for number in objects])
        scores = rank_scores(
            masks, maps, frame_weight=config.frame_weight, temporal_merge=self._lvlm.family.temporal_merge
        )
        target = referral.targets[0] + 1
        return float(target in owners), float(objects[int(scores.argmax())] == target)


def batches(
    samples: list[TrainingSample], size: int, rng: np.random.Generator
) -> Iterator[list[TrainingSample]]:
    """Batches without end; each has one token grid, and every sample comes once an epoch."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[tuple(sample.context.video.grid)].append(index)
    while True:
        epoch: list[list[int]] = []
        for members in groups.values():
            order = rng.permutation(members).tolist()
            epoch += [order[start : start + size] for start in range(0, len(order), size)]
        for chosen in rng.permutation(len(epoch)):
            yield [samples[index] for index in epoch[chosen]]


def train(
    lvlm: LVLM,
    preset: Preset,
    *,
    start: SoftPrompts | None,
    tokens: int,
    placement: Placement,
    clips: int,
    expressions: int,
    config: RefineConfig,
    batch: int,
    frames_per_sample: int,
    own_attributes: float,
    validation_clips: int,
    validate_every: int,
    seed: int,
    out: Path,
) -> SoftPrompts:
    """Train a pair of soft prompts, from line breaks where ``start`` is none; saves them now and then."""
    layers = preset.layers or tuple(range(lvlm.num_layers // 2, lvlm.num_layers))
    rng = np.random.default_rng(seed)
    begun = time.monotonic()

    def log(**values: Any) -> None:
        line = json.dumps({**values, "seconds": round(time.monotonic() - begun, 1)})
        print(line, flush=True)
        with (out / "log.jsonl").open("a") as lines:
            print(line, file=lines)

    stream = seen_clips(lvlm, preset, TRAINING_WORLD, rng, pictures=PICTURES, expressions=expressions)
    samples: list[TrainingSample] = []
    for _ in range(clips):
        samples += training_samples(lvlm, preset, next(stream), rng, own_attributes)
    log(samples=len(samples))
    validation = Validation(lvlm, preset, layers, validation_clips, config.heads)
    log(step=0, **validation(None))
    if start is None:
        start = SoftPrompts.from_embedding(lvlm.line_break, tokens, seed=seed, placement=placement)
    trainer = SoftPromptTrainer(lvlm, layers, start, config)
    feed = batches(samples, batch, rng)
    losses: list[float] = []
    measured: dict[str, float] = {}
    for step in range(1, config.steps + 1):
        losses.append(trainer.step(next(feed), rng, frames_per_sample=frames_per_sample))
        last = step == config.steps
        if step % 20 == 0 or last:
            log(step=step, loss=round(float(np.mean(losses[-20:])), 4))
        if step % validate_every == 0 or last:
            measured = validation(trainer.prompts)
            log(step=step, **measured)
            trainer.prompts.save(out)
    card = {
        "data": f"{len(samples)} expressions on {clips} rendered clips, seed {seed}",
        "steps": config.steps,
        "loss_first": round(float(np.mean(losses[:20])), 4),
        "loss_last": round(float(np.mean(losses[-20:])), 4),
        "heads": config.heads,
        **measured,
    }
    return replace(trainer.prompts, card=card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the soft prompts and the log")
    parser.add_argument("--lvlm", help="folder of the vision-language model; the preset's where left out")
    parser.add_argument("--start", type=Path, help="folder of soft prompts to go on from")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--placement", choices=get_args(Placement), default="before_vision")
    parser.add_argument("--clips", type=int, default=800)
    parser.add_argument("--expressions", type=int, default=6, help="of each clip")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames-per-sample", type=int, default=2)
    parser.add_argument("--own-attributes", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=RefineConfig.learning_rate)
    parser.add_argument("--ranking-weight", type=float, default=1.0, help="of the scene's other objects")
    parser.add_argument("--ranking-margin", type=float, default=RefineConfig.ranking_margin)
    parser.add_argument("--heads", choices=get_args(Heads), default="visual_max")
    parser.add_argument("--validation-clips", type=int, default=48)
    parser.add_argument("--validate-every", type=int, default=200, help="steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    preset = load_preset(find_preset("demo"))
    # Single precision on a GPU too: the model is small, and it is what the product uses on a CPU.
    lvlm = LVLM.from_pretrained(
        options.lvlm or preset.lvlm, device=torch.device(options.device), dtype=torch.float32
    )
    options.out.mkdir(parents=True, exist_ok=True)
    prompts = train(
        lvlm,
        preset,
        start=None if options.start is None else SoftPrompts.load(options.start),
        tokens=options.tokens,
        placement=options.placement,
        clips=options.clips,
        expressions=options.expressions,
        config=RefineConfig(
            steps=options.steps,
            learning_rate=options.learning_rate,
            heads=options.heads,
            ranking_weight=options.ranking_weight,
            ranking_margin=options.ranking_margin,
        ),
        batch=options.batch,
        frames_per_sample=options.frames_per_sample,
        own_attributes=options.own_attributes,
        validation_clips=options.validation_clips,
        validate_every=options.validate_every,
        seed=options.seed,
        out=options.out,
    )
    prompts.save(options.out)


if __name__ == "__main__":
    main()
