"""Replayed clips: the same by number every time, held-out ones never among those to learn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steerseg.errors import ConfigError
from steerseg.presets import ReplaySpec, find_preset, load_preset
from steerseg.training.replay import open_replay


def test_rendered_scenes_are_the_same_every_time_and_differ_by_number_part_and_seed() -> None:
    source = open_replay(ReplaySpec(source="sprites"))
    clip, again = source("training", 3), source("training", 3)
    assert np.array_equal(clip.video.frames, again.video.frames)
    assert clip.expression == again.expression
    assert clip.masks.shape == clip.video.frames.shape[:3]
    assert clip.masks.any()
    others = (
        source("held_out", 3),
        source("training", 4),
        open_replay(ReplaySpec(source="sprites", seed=1))("training", 3),
    )
    for other in others:
        assert other.video.digest != clip.video.digest
        assert not np.array_equal(other.video.frames[:1], clip.video.frames[:1])


def write_dataset(root: Path, clips: int) -> None:
    videos = {}
    for number in range(clips):
        name = f"clip{number}"
        for part in ("JPEGImages", "Annotations"):
            (root / "train" / part / name).mkdir(parents=True)
        for frame in range(3):
            pixels = np.full((20, 30, 3), 20 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(root / "train" / "JPEGImages" / name / f"{frame:05d}.jpg")
            ids = np.zeros((20, 30), dtype=np.uint8)
            ids[2:9, 3:9] = 1
            Image.fromarray(ids).save(root / "train" / "Annotations" / name / f"{frame:05d}.png")
        videos[name] = {
            "frames": [f"{frame:05d}" for frame in range(3)],
            "expressions": {str(k): {"exp": f"thing {k} of {name}", "obj_id": "1"} for k in range(2)},
        }
    listing = root / "meta_expressions" / "train" / "meta_expressions.json"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"videos": videos}))


def test_a_dataset_beside_the_preset_gives_one_expression_of_each_clip(tmp_path: Path) -> None:
    write_dataset(tmp_path / "replay", 5)
    (tmp_path / "preset.json").write_text(
        json.dumps(
            {
                "name": "x",
                "lvlm": "a",
                "sam2": "b",
                "replay": {"source": "replay", "training": 3, "held_out": 2},
            }
        )
    )
    spec = load_preset(tmp_path).replay
    assert spec is not None
    source = open_replay(spec)
    held_out = [source("held_out", index).video.source for index in range(2)]
    training = [source("training", index).video.source for index in range(3)]
    assert len({*held_out, *training}) == 5
    more = open_replay(spec.model_copy(update={"training": 2}))
    assert [more("held_out", index).video.source for index in range(2)] == held_out
    assert source("training", 0).masks.sum() == 3 * 42
    with pytest.raises(ConfigError, match="too few"):
        source("training", 3)


def test_a_source_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="nothing to replay at 'films'"):
        open_replay(ReplaySpec(source="films"))


def test_the_demo_replays_sprites_and_the_7b_preset_corrections_alone() -> None:
    demo = load_preset(find_preset("demo"))
    assert demo.replay is not None
    assert demo.replay.source == "sprites"
    assert load_preset(find_preset("qwen2.5-vl-7b")).replay is None


def test_a_preset_may_change_the_recipe(tmp_path: Path) -> None:
    card = {"name": "x", "lvlm": "a", "sam2": "b", "pipeline": {"heads": "mean"}}
    changed = {**card, "refinement": {"batch": 2, "training": {"steps": 7}}}
    (tmp_path / "preset.json").write_text(json.dumps(changed))
    recipe = load_preset(tmp_path).recipe
    assert (recipe.batch, recipe.training.steps, recipe.training.heads) == (2, 7, "mean")
    (tmp_path / "preset.json").write_text(json.dumps({**card, "refinement": {"training": {"step": 7}}}))
    with pytest.raises(ConfigError, match="RefinementRecipe"):
        _ = load_preset(tmp_path).recipe
