from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.demo.__main__ import warnings_in
from ml_backend.demo.samples import RENDERED, RenderedClip, scene_of
from steerseg import SteerSeg, load_video
from steerseg.demo.dataset import render_scene
from steerseg.demo.sprites import load_atlas, load_catalogue
from steerseg.demo.statements import Statements
from steerseg.video import write_video
from tests.support.obvious import Obvious, obvious_expressions

TARGETS = {"spools": (0,), "globes": (1,), "pet": (2,), "rabbit": (2,)}
"""Name of a sample → the objects that its expression means."""


@pytest.fixture(scope="module")
def steerseg() -> SteerSeg:
    """The demo, which keeps a video's features for its further expressions."""
    return SteerSeg.from_pretrained("demo", device="cpu")


@pytest.mark.parametrize("clip", RENDERED, ids=[clip.name for clip in RENDERED])
def test_a_sample_and_its_obvious_expressions_come_out_right(
    clip: RenderedClip, steerseg: SteerSeg, tmp_path: Path
) -> None:
    scene = scene_of(clip)
    frames, ids = render_scene(scene, load_atlas(scene.styles))
    write_video(tmp_path / "sample.mp4", iter(frames), scene.fps)
    video = load_video(tmp_path / "sample.mp4")
    # As many tracklets as an expression means come all the same; presence changes none of them.
    config = replace(steerseg.config, alternatives=1, presence="off")
    asked = [Obvious(clip.expression, TARGETS[clip.name]), *obvious_expressions(scene)]
    assert set().union(*(one.targets for one in asked[1:])) == set(range(scene.num_objects))
    wrong = {}
    for one in asked:
        proposal = steerseg.propose(video, one.text, config=config)
        masks = [proposal.tracklets[rank].masks for rank in proposal.shown]
        best = [max(overlap(mask, ids == target + 1) for mask in masks) for target in one.targets if masks]
        if len(masks) != len(one.targets) or min(best) < 0.7:
            wrong[one.text] = (len(masks), best)
    assert not wrong
    assert not steerseg.propose(video, clip.expression).presence.refused, "its task has a prediction"


def test_the_samples_are_short_and_ask_for_different_things() -> None:
    scenes = [scene_of(clip) for clip in RENDERED]
    assert all(scene.num_frames <= 36 for scene in scenes)
    several = [any(len(one.targets) > 1 for one in obvious_expressions(scene)) for scene in scenes]
    assert several[0], "the first has several objects of a kind"
    facts = [Statements(scene, load_catalogue(scene.styles)) for scene in scenes]
    (target,) = TARGETS["rabbit"]
    assert facts[-1].observation.presence[target] == "returns", "one is away for a while"


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
