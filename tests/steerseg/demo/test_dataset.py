import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steerseg.demo.absence import ABSENT_KINDS
from steerseg.demo.dataset import (
    RECIPES,
    Manifest,
    build_manifest,
    clips,
    load_manifest,
    save_manifest,
    scene_of,
    write_split,
)
from steerseg.demo.language import KINDS
from steerseg.demo.photos import photo_views
from steerseg.demo.sprites import load_catalogue
from steerseg.demo.world import unseen_pair
from steerseg.errors import ConfigError
from steerseg.evaluation import read_ref_youtube_vos
from steerseg.words.counting import instances_meant


def first_clips(split: str, count: int) -> Manifest:
    manifest = load_manifest(split)
    return Manifest(manifest.split, manifest.about, manifest.world, manifest.phrasing, manifest.clips[:count])


@pytest.mark.parametrize("split", list(RECIPES))
def test_committed_manifests_still_draw_the_scenes_they_describe(split: str) -> None:
    manifest = load_manifest(split)
    catalogue = load_catalogue(manifest.world.styles)
    assert len(manifest.clips) == RECIPES[split].clips
    for entry in manifest.clips[:: max(1, len(manifest.clips) // 10)]:
        scene = scene_of(manifest, entry)
        for expression in entry.expressions:
            if not expression.targets:
                assert expression.kind in ABSENT_KINDS
                continue
            target = expression.targets[0]
            assert catalogue.names[scene.sprite[target]] == expression.name
            if split == "test-objects":
                assert catalogue.heldout[scene.sprite[target]]
            if split == "test-compositions":
                assert unseen_pair(scene.sprite, scene.tint)[target]


def test_half_of_the_presence_splits_is_not_there() -> None:
    texts: dict[str, set[str]] = {}
    for split in ("presence-val", "test-presence"):
        expressions = [expression for clip in load_manifest(split).clips for expression in clip.expressions]
        absent = Counter(expression.kind for expression in expressions if not expression.targets)
        assert set(absent) == set(ABSENT_KINDS)
        assert sum(absent.values()) * 2 == len(expressions)
        fixed = ("other language", "gibberish")
        texts[split] = {expression.text for expression in expressions if expression.kind in fixed}
    assert not texts["presence-val"] & texts["test-presence"]  # nothing is tuned to what is measured


@pytest.mark.parametrize("split", ["plurals-val", "test-plurals"])
def test_the_plural_splits_are_of_several_objects(split: str) -> None:
    expressions = [expression for clip in load_manifest(split).clips for expression in clip.expressions]
    assert {expression.kind for expression in expressions} == {"plural"}
    assert min(len(expression.targets) for expression in expressions) == 2
    assert all(instances_meant(expression.text) is not None for expression in expressions)


def test_the_test_split_is_large_and_varied_enough() -> None:
    manifest = load_manifest("test")
    expressions = [expression for clip in manifest.clips for expression in clip.expressions]
    assert len(expressions) >= 300
    kinds = Counter(expression.kind for expression in expressions)
    assert set(kinds) == set(KINDS) - {"plural"}
    assert min(kinds.values()) >= 30
    # One of two the same, told apart by motion or place.
    assert sum(e.twin and e.kind in ("motion", "spatial") for e in expressions) >= 60


@pytest.mark.parametrize("split", list(RECIPES))
def test_splits_show_photographs_that_training_never_shows(split: str) -> None:
    manifest = load_manifest(split)
    photos = [int(scene_of(manifest, entry).background.photo) for entry in manifest.clips]
    shown = {photo for photo in photos if photo >= 0}
    assert shown <= set(photo_views("heldout").tolist())
    assert 0.2 < sum(photo >= 0 for photo in photos) / len(photos) < 0.45


def test_splits_share_no_seed() -> None:
    seeds = [clip.seed for split in RECIPES for clip in load_manifest(split).clips]
    assert len(seeds) == len(set(seeds))


def test_a_manifest_survives_saving(tmp_path: Path) -> None:
    manifest = first_clips("test-phrasings", 3)
    save_manifest(manifest, tmp_path)
    assert load_manifest("test-phrasings", tmp_path) == manifest


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_manifest("nowhere")
    with pytest.raises(ConfigError, match="nowhere"):
        build_manifest("nowhere")


def test_a_written_split_reads_back(tmp_path: Path) -> None:
    manifest = first_clips("val", 2)
    meta = write_split(manifest, tmp_path)
    assert set(json.loads(meta.read_text())["videos"]) == {clip.video for clip in manifest.clips}
    samples = read_ref_youtube_vos(tmp_path, "val")
    for sample, clip in zip(samples, clips(manifest), strict=True):
        expression = clip.entry.expressions[0]
        assert sample.expression == expression.text
        assert sample.kind == expression.kind
        masks = sample.masks()
        assert np.array_equal(masks, clip.masks(expression))
        assert masks.any()
        with Image.open(sample.folder / "00000.jpg") as image:
            error = np.abs(np.asarray(image).astype(int) - clip.frames[0]).mean()
        assert error < 6  # JPEG
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*.jpg"))
    write_split(manifest, tmp_path)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*.jpg"))


def test_clips_of_an_earlier_manifest_are_drawn_anew(tmp_path: Path) -> None:
    manifest = first_clips("val", 1)
    entry = manifest.clips[0]
    other = next(clip for clip in load_manifest("val").clips[1:])
    write_split(replace(manifest, clips=(replace(other, video=entry.video),)), tmp_path)
    stale = (tmp_path / "val" / "JPEGImages" / entry.video / "00000.jpg").read_bytes()
    write_split(manifest, tmp_path)
    folder = tmp_path / "val" / "JPEGImages" / entry.video
    assert (folder / "00000.jpg").read_bytes() != stale
    assert len(list(folder.iterdir())) == scene_of(manifest, entry).num_frames
