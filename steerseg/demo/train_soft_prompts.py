"""Train the demo preset's soft prompts on rendered clips, with the objective of :mod:`steerseg.refine`.

Command: ``python -m steerseg.demo.train_soft_prompts --out DIR --steps 600``. The vision tower stands before
the prompts and is frozen, so the clips' visual tokens are made once and used again for every step.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from steerseg.config import Heads
from steerseg.demo.language import referrals
from steerseg.demo.sprites import Atlas, load_atlas
from steerseg.demo.world import WorldSpec, collate, render, sample_scene
from steerseg.demo.world import keyframes as scene_keyframes
from steerseg.grounding import see
from steerseg.lvlm import LVLM
from steerseg.presets import Preset, find_preset, load_preset
from steerseg.reasoning import attributes_of
from steerseg.refine import RefineConfig, SoftPromptTrainer, TrainingSample
from steerseg.soft_prompts import SoftPrompts

PICTURES = 4  # keyframes of a clip that are encoded as images


def clip_samples(
    lvlm: LVLM,
    preset: Preset,
    atlas: Atlas,
    spec: WorldSpec,
    rng: np.random.Generator,
    expressions: int,
    own_attributes: float,
) -> list[TrainingSample]:
    """Render one clip's keyframes and ask a few expressions about it.

    Attributes are the frozen model's own, as in use, with probability ``own_attributes``, which is slow; of the
    rest, half are the true ones and half are left out, so that the prompts serve with and without reasoning.
    """
    scene = sample_scene(rng, spec)
    keyframes = scene_keyframes([scene], preset.keyframes)
    images, ids = render(collate([scene]), atlas, keyframes, device=lvlm.device)
    frames = images[0].permute(0, 2, 3, 1).cpu().numpy()
    pictures = sorted(rng.permutation(preset.keyframes)[:PICTURES].tolist())
    context = see(
        lvlm,
        frames,
        keyframes[0].tolist(),
        budget=preset.video_tokens,
        seconds_per_slice=preset.seconds_per_slice or 1.0,
        frame_batch=preset.frame_batch,
        pictures=pictures,
    )
    samples = []
    choices = referrals(scene, rng)
    for index in rng.permutation(len(choices))[:expressions]:
        referral = choices[index]
        attributes: tuple[str, ...] = ()
        if rng.random() < own_attributes:
            attributes = attributes_of(
                lvlm, context.video, referral.expression, preset.texts, max_new_tokens=48
            )
        elif rng.random() < 0.5:
            attributes = referral.attributes
        wanted = torch.tensor([target + 1 for target in referral.targets], device=ids.device)
        masks = torch.isin(ids[0], wanted).cpu().numpy()
        question = preset.texts.grounding_question(referral.expression, attributes)
        samples.append(
            TrainingSample.from_masks(context, question, masks, lvlm.family.temporal_merge, pictures=pictures)
        )
    return samples


def train(
    lvlm: LVLM,
    preset: Preset,
    *,
    tokens: int,
    clips: int,
    expressions: int,
    config: RefineConfig,
    batch: int,
    frames_per_sample: int,
    own_attributes: float,
    seed: int,
    out: Path,
) -> SoftPrompts:
    """Train a pair of soft prompts from word embeddings; saves them and a line of log now and then."""
    layers = preset.layers or tuple(range(lvlm.num_layers // 2, lvlm.num_layers))
    rng = np.random.default_rng(seed)
    atlas = load_atlas()
    log = out / "log.jsonl"
    begun = time.monotonic()
    samples: list[TrainingSample] = []
    for _ in range(clips):
        samples += clip_samples(
            lvlm, preset, atlas, WorldSpec(), rng, expressions=expressions, own_attributes=own_attributes
        )
    with log.open("a") as lines:
        print(
            json.dumps({"samples": len(samples), "seconds": round(time.monotonic() - begun, 1)}), file=lines
        )
    start = SoftPrompts.from_vocabulary(lvlm.embeddings.weight, tokens, seed=seed)
    trainer = SoftPromptTrainer(lvlm, layers, start, config)
    order: list[int] = []
    losses: list[float] = []
    for step in range(1, config.steps + 1):
        if len(order) < batch:
            order = rng.permutation(len(samples)).tolist()
        chosen = [samples[order.pop()] for _ in range(batch)]
        losses.append(trainer.step(chosen, rng, frames_per_sample=frames_per_sample))
        if step % 20 == 0 or step == config.steps:
            line = {
                "step": step,
                "loss": round(float(np.mean(losses[-20:])), 4),
                "seconds": round(time.monotonic() - begun, 1),
            }
            with log.open("a") as lines:
                print(json.dumps(line), file=lines)
            print(line, flush=True)
            trainer.prompts.save(out)
    card = {
        "data": f"{len(samples)} expressions on {clips} rendered clips, seed {seed}",
        "steps": config.steps,
        "loss_first": round(float(np.mean(losses[:20])), 4),
        "loss_last": round(float(np.mean(losses[-20:])), 4),
        "heads": config.heads,
    }
    return replace(trainer.prompts, card=card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the soft prompts and the log")
    parser.add_argument("--lvlm", help="folder of the vision-language model; the preset's where left out")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--expressions", type=int, default=4, help="of each clip")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames-per-sample", type=int, default=2)
    parser.add_argument("--own-attributes", type=float, default=0.5)
    parser.add_argument("--learning-rate", type=float, default=RefineConfig.learning_rate)
    parser.add_argument("--heads", choices=["mean", "visual_max"], default="visual_max")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    preset = load_preset(find_preset("demo"))
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    lvlm = LVLM.from_pretrained(options.lvlm or preset.lvlm, device=device, dtype=dtype)
    options.out.mkdir(parents=True, exist_ok=True)
    heads: Heads = options.heads
    prompts = train(
        lvlm,
        preset,
        tokens=options.tokens,
        clips=options.clips,
        expressions=options.expressions,
        config=RefineConfig(steps=options.steps, learning_rate=options.learning_rate, heads=heads),
        batch=options.batch,
        frames_per_sample=options.frames_per_sample,
        own_attributes=options.own_attributes,
        seed=options.seed,
        out=options.out,
    )
    prompts.save(options.out)


if __name__ == "__main__":
    main()
