from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_backend.demo.__main__ import warnings_in
from ml_backend.demo.samples import RENDERED, SPLIT
from ml_backend.models.propose import stored_proposal
from steerseg import SteerSeg, load_video
from steerseg.demo.dataset import load_manifest, render_scene, scene_of
from steerseg.demo.sprites import load_atlas
from steerseg.masks import decode_rle
from steerseg.video import write_video
from steerseg.words.counting import alternatives_for, choose_candidates, instances_meant
from tests.support.obvious import obvious_expressions


def test_the_rendered_samples_are_short_clips_asked_for_in_different_ways() -> None:
    manifest = load_manifest(SPLIT)
    entries = {entry.video: entry for entry in manifest.clips}
    expressions = [entries[video].expressions[index] for _, video, index in RENDERED]
    assert [expression.name for expression in expressions] == [name for name, _, _ in RENDERED]
    assert len({expression.kind for expression in expressions}) == len(RENDERED)
    assert any(expression.twin for expression in expressions)
    assert all(scene_of(manifest, entries[video]).num_frames <= 60 for _, video, _ in RENDERED)


FIRST_TRIED = ("the sailboat", "the orange sailboat", "the two canoes")


def test_the_obvious_expressions_of_the_first_sample_come_out_right(tmp_path: Path) -> None:
    manifest = load_manifest(SPLIT)
    _, name, index = RENDERED[0]
    (entry,) = [clip for clip in manifest.clips if clip.video == name]
    own = entry.expressions[index]
    scene = scene_of(manifest, entry)
    frames, ids = render_scene(scene, load_atlas(manifest.world.styles))
    write_video(tmp_path / "sample.mp4", iter(frames), scene.fps)
    video, steerseg = load_video(tmp_path / "sample.mp4"), SteerSeg.from_pretrained("demo", device="cpu")
    wanted = {one.text: one.targets for one in obvious_expressions(scene)} | {own.text: own.targets}
    for text in (own.text, *FIRST_TRIED):
        config = replace(steerseg.config, alternatives=alternatives_for(text, steerseg.config.alternatives))
        proposal = stored_proposal(steerseg.propose(video, text, config=config))
        ranks = choose_candidates(proposal.tracklets, instances_meant(text))
        masks = [np.stack([decode_rle(rle) for rle in proposal.tracklets[rank].rles]) for rank in ranks]
        assert len(masks) == len(wanted[text]), text
        for target in wanted[text]:
            assert max(overlap(mask, ids == target + 1) for mask in masks) > 0.7, text


def overlap(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Mean IoU over the frames; 1 where both are empty."""
    shared = (masks & truth).sum(axis=(1, 2))
    either = (masks | truth).sum(axis=(1, 2))
    return float(np.where(either > 0, shared / np.maximum(either, 1), 1.0).mean())


def test_a_start_with_warnings_is_none_that_went_well(tmp_path: Path) -> None:
    log = tmp_path / "backend.log"
    old = "2026-11-29 00:01:00 WARNING old\n"
    log.write_text(old + "2026-11-29 00:02:00 INFO fine\n2026-11-29 00:03:00 WARNING new\n", "utf-8")
    assert warnings_in(log, len(old)) == ["backend.log: 2026-11-29 00:03:00 WARNING new"]
