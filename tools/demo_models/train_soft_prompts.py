"""Train the demo preset's soft prompts on rendered clips, with the objective of :mod:`steerseg.training.trainer`.

Command: ``python -m tools.demo_models.train_soft_prompts --out DIR --steps 1000``; every step sees fresh clips.

``log.jsonl`` in DIR has the loss every few steps and, now and then, what the maps are worth on clips that
training never sees: the share of expressions with a point prompt on the target (``hit``), and with the target
ranked first among the scene's true masks (``rank``), both with the model's own attributes and without any.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from steerseg.config import Heads, PipelineConfig, Placement, TrainingConfig
from steerseg.demo.language import Referral, referrals
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import WorldSpec, collate, render, sample_scene
from steerseg.demo.world import keyframes as scene_keyframes
from steerseg.grounding import VisionContext, encode_keyframes, ground
from steerseg.lvlm import LVLM
from steerseg.points import point_prompts
from steerseg.presets import Preset, find_preset, load_preset
from steerseg.ranking import rank_scores
from steerseg.reasoning import attributes_of
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.trainer import SoftPromptTrainer
from tools.demo_models.steering_data import SampleFeed, by_turns

VALIDATION_WORLD = WorldSpec(pairs="any", photos=0.35, photo_half="heldout")
VALIDATION_SEED = 40_404


@dataclass(frozen=True)
class SeenClip:
    """One rendered clip as the vision tower saw it.

    Attributes:
        context: Its visual tokens.
        ids: (K, H, W) 1 + index of the object under each pixel of the keyframes; 0 is the background.
        asked: Expressions about it, none of several objects, each with the model's own attributes.
    """

    context: VisionContext
    ids: torch.Tensor
    asked: tuple[tuple[Referral, tuple[str, ...]], ...]


def held_out_clip(lvlm: LVLM, preset: Preset, rng: np.random.Generator) -> SeenClip:
    """Render a clip, show it to the model as the product does, and let it reason."""
    scene = sample_scene(rng, VALIDATION_WORLD)
    keyframes = scene_keyframes([scene], preset.keyframes)
    images, ids = render(collate([scene]), load_atlas(VALIDATION_WORLD.styles), keyframes, device=lvlm.device)
    context = encode_keyframes(
        lvlm,
        images[0].permute(0, 2, 3, 1).cpu().numpy(),
        keyframes[0].tolist(),
        budget=preset.video_tokens,
        seconds_per_slice=preset.seconds_per_slice or 1.0,
        frame_batch=preset.frame_batch,
    )
    asked = [
        (referral, attributes_of(lvlm, context.video, referral.expression, preset.texts, preset.config))
        for referral in by_turns(referrals(scene, rng), rng)[:4]
    ]
    return SeenClip(context, ids[0].cpu(), tuple(asked))


class Validation:
    """Held-out clips, and what the maps of a pair of prompts are worth on them.

    Args:
        lvlm: The model.
        preset: Questions and budgets.
        layers: Text layers of the rollout.
        clips: Number of clips; up to four expressions of each.
        heads: Head weighting of the rollout.
    """

    def __init__(self, lvlm: LVLM, preset: Preset, layers: tuple[int, ...], clips: int, heads: Heads) -> None:
        self._lvlm, self._preset, self._layers = lvlm, preset, layers
        self._config = replace(preset.config, heads=heads)
        rng = np.random.default_rng(VALIDATION_SEED)
        self._clips = [held_out_clip(lvlm, preset, rng) for _ in range(clips)]

    def __call__(self, prompts: SoftPrompts | None) -> dict[str, float]:
        """``hit``, ``rank``, and both ``_raw``: without attributes. All in [0, 1]."""
        found: dict[str, list[float]] = defaultdict(list)
        steering = None if prompts is None else prompts.to(self._lvlm.device)
        for clip in self._clips:
            for referral, own in clip.asked:
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
        index = {frame: k for k, frame in enumerate(maps.keyframes)}
        owners = {
            int(clip.ids[index[point.frame], int(point.y * height), int(point.x * width)])
            for point in point_prompts(maps, config)
        }
        objects = [int(number) for number in clip.ids.unique() if number > 0]
        masks = torch.stack([clip.ids == number for number in objects])
        scores = rank_scores(
            masks, maps, frame_weight=config.frame_weight, temporal_merge=self._lvlm.family.temporal_merge
        )
        target = referral.targets[0] + 1
        return float(target in owners), float(objects[int(scores.argmax())] == target)


def train(
    lvlm: LVLM,
    preset: Preset,
    *,
    start: SoftPrompts | None,
    tokens: int,
    placement: Placement,
    config: TrainingConfig,
    clips: int,
    expressions: int,
    frames_per_sample: int,
    workers: int,
    validation_clips: int,
    validate_every: int,
    seed: int,
    out: Path,
) -> SoftPrompts:
    """Train a pair of soft prompts, from line breaks where ``start`` is none; saves them now and then."""
    layers = lvlm.rollout_layers(preset.layers, preset.name)
    rng = np.random.default_rng(seed)
    begun = time.monotonic()

    def log(**values: Any) -> None:
        line = json.dumps({**values, "seconds": round(time.monotonic() - begun, 1)})
        print(line, flush=True)
        with (out / "log.jsonl").open("a") as lines:
            print(line, file=lines)

    feed = SampleFeed(
        lvlm,
        preset,
        clips=clips,
        expressions=expressions,
        pictures=frames_per_sample,
        seed=seed,
        workers=workers,
    )
    validation = Validation(lvlm, preset, layers, validation_clips, config.heads)
    log(step=0, **validation(None))
    if start is None:
        start = SoftPrompts.from_embedding(lvlm.line_break, tokens, seed=seed, placement=placement)
    trainer = SoftPromptTrainer(lvlm, layers, start, config)
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
        "data": f"{config.steps * clips} rendered clips, {expressions} expressions of each, seed {seed}",
        "steps": config.steps,
        "loss_first": round(float(np.mean(losses[:20])), 4),
        "loss_last": round(float(np.mean(losses[-20:])), 4),
        "heads": config.heads,
        **measured,
    }
    return replace(trainer.prompts, card=card)


def main() -> None:
    """Train a pair as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the soft prompts and the log")
    parser.add_argument("--lvlm", help="folder of the vision-language model; the preset's where left out")
    parser.add_argument("--start", type=Path, help="folder of soft prompts to go on from")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--placement", choices=get_args(Placement), default="before_vision")
    parser.add_argument("--clips", type=int, default=16, help="of a step")
    parser.add_argument("--expressions", type=int, default=2, help="of each clip")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--frames-per-sample", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4, help="processes that sample clips")
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig.learning_rate)
    parser.add_argument("--ranking-weight", type=float, default=1.0, help="of the scene's other objects")
    parser.add_argument("--ranking-margin", type=float, default=TrainingConfig.ranking_margin)
    parser.add_argument("--heads", choices=get_args(Heads), default="visual_max")
    parser.add_argument("--validation-clips", type=int, default=48)
    parser.add_argument("--validate-every", type=int, default=200, help="steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    preset = load_preset(find_preset("demo"))
    # Single precision on a GPU too: the model is small, and it is what the product uses on a CPU.
    lvlm = LVLM.from_pretrained(
        options.lvlm or preset.language_model, device=torch.device(options.device), dtype=torch.float32
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
        config=TrainingConfig(
            steps=options.steps,
            learning_rate=options.learning_rate,
            heads=options.heads,
            ranking_weight=options.ranking_weight,
            ranking_margin=options.ranking_margin,
        ),
        frames_per_sample=options.frames_per_sample,
        workers=options.workers,
        validation_clips=options.validation_clips,
        validate_every=options.validate_every,
        seed=options.seed,
        out=options.out,
    )
    prompts.save(options.out)


if __name__ == "__main__":
    main()
