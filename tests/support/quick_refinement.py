"""Refinements that take moments and are promoted, and short clips to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.refinement.presets import with_recipe
from steerseg.demo.dataset import render_scene
from steerseg.demo.language import referrals
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.video import write_video

# What is learned in so short a time is no matter here, nor whether it is any good: the gate has tests of its own.
_RECIPE = {
    "training": {"steps": 3, "warmup": 1},
    "batch": 2,
    "frames_per_sample": 1,
    "pictures": 2,
    "tokens": 4,
    "min_videos": 2,
    "folds": 2,
    "min_gain": -1.0,
    "max_regression": 1.0,
}
_REPLAY = {"source": "sprites", "training": 1, "held_out": 1}


def quick_preset(preset: str | Path, folder: Path) -> Path:
    """Write a preset with a quick recipe that promotes whatever it learns; return the folder."""
    return with_recipe(preset, _RECIPE, folder, replay=_REPLAY)


def write_clips(folder: Path, number: int) -> dict[str, Path]:
    """Write short clips of two different objects each; return them by what is to be tracked."""
    world = WorldSpec(
        sizes=((192, 320),), frames=(10, 10), objects=(2, 2), lookalike=0, tint=0, overlap=0, pan=0
    )
    atlas = load_atlas(world.styles)
    found: dict[str, Path] = {}
    seed = 0
    while len(found) < number:
        seed += 1
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, world)
        named = [r for r in referrals(scene, rng, kinds=("explicit",)) if r.expression == f"the {r.name}"]
        if named and named[0].expression not in found:
            path = folder / f"{named[0].name.replace(' ', '-')}.mp4"
            write_video(path, iter(render_scene(scene, atlas)[0]), scene.fps)
            found[named[0].expression] = path
    return found
