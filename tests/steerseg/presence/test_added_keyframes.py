"""Keyframes that are added between the first ones, and where a tracklet shows nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from steerseg.config import PipelineConfig
from steerseg.demo.dataset import load_manifest, render_scene, scene_of
from steerseg.demo.sprites import load_atlas
from steerseg.masks import encode_rle, iou
from steerseg.pipeline import SteerSeg
from steerseg.presence.added_keyframes import with_returns
from steerseg.presence.findings import Finding
from steerseg.proposal import Proposal
from steerseg.tracking import Tracklet
from steerseg.video import Video, keyframe_indices, video_from_frames

CLIP = "val-0040"
TEXT = "select the watch"


@dataclass(frozen=True)
class Film:
    """A clip in which one object is in the picture on some frames alone, and its masks (T, H, W)."""

    video: Video
    truth: NDArray[np.bool_]


@pytest.fixture(scope="module")
def steerseg() -> SteerSeg:
    return SteerSeg.from_pretrained("demo", device="cpu")


def film_with(*windows: tuple[int, int]) -> Film:
    """The target is in the picture from and to (exclusive) these frames; two seconds lie between two keyframes."""
    manifest = load_manifest("val")
    entry = next(entry for entry in manifest.clips if entry.video == CLIP)
    scene = scene_of(manifest, entry)
    target = entry.expressions[0].targets[0]
    centre = scene.centre.copy()
    there = np.zeros(scene.num_frames, dtype=bool)
    for start, end in windows:
        there[start:end] = True
    centre[target, ~there] = -1000
    frames, ids = render_scene(replace(scene, centre=centre), load_atlas(scene.styles))
    return Film(video_from_frames(frames, fps=2.0), ids == target + 1)


def config_of(steerseg: SteerSeg, added: int) -> PipelineConfig:
    return replace(steerseg.config, alternatives=1, added_keyframes=added, seek_returns=True)


def find(steerseg: SteerSeg, film: Film, config: PipelineConfig) -> Finding:
    reading = steerseg.read(TEXT, config)
    keyframes = keyframe_indices(len(film.video), config.keyframes)
    return steerseg.find(film.video, reading, keyframes, config, steerseg.steering(config))


def propose(steerseg: SteerSeg, film: Film) -> tuple[Proposal, set[str]]:
    stages: set[str] = set()
    proposal = steerseg.propose(
        film.video, TEXT, config=config_of(steerseg, 7), progress=lambda stage, _: stages.add(stage)
    )
    return proposal, stages


def test_an_object_between_two_keyframes_is_found_on_added_ones(steerseg: SteerSeg) -> None:
    film = film_with((26, 30))
    assert find(steerseg, film, config_of(steerseg, 0)).presence.refused
    found, stages = propose(steerseg, film)
    assert found.shown == (0,)
    assert iou(found.best.masks, film.truth) > 0.7
    assert "added keyframes" in stages
    assert found.maps.keyframes == (2, 7, 12, 17, 22, 27, 32)
    assert found.note.startswith("Found at 13.5 s, on a keyframe that was added")


def test_what_is_nowhere_is_refused_with_added_keyframes_too(steerseg: SteerSeg) -> None:
    found, stages = propose(steerseg, film_with())
    assert "added keyframes" in stages
    assert found.shown == ()
    assert found.maps.keyframes == keyframe_indices(36, 8)
    assert "show nothing more likely" in found.note


def lost(film: Film, found: Finding, start: int) -> Tracklet:
    """The tracklet of a segmenter that tracks the object well, and loses it."""
    rles = tuple(encode_rle(mask & (frame < start)) for frame, mask in enumerate(film.truth))
    scores = (np.arange(len(rles)) < start).astype(np.float32)
    first = found.candidates.on_keyframes.candidates[found.ranking[0].index]
    return Tracklet(rles, scores, first.prompt, found.ranking[0].score)


@pytest.mark.parametrize("returns", [True, False])
def test_an_object_that_comes_back_joins_its_tracklet_and_no_other_takes_its_place(
    steerseg: SteerSeg, returns: bool
) -> None:
    film = film_with((0, 12), (26, 30)) if returns else film_with((0, 12))
    config = config_of(steerseg, 7)
    found = find(steerseg, film, config)
    before = lost(film, found, 12)
    (after,), note = with_returns(
        steerseg, found, (before,), config, steerseg.steering(config), lambda stage, fraction: None
    )
    assert after.rles[:12] == before.rles[:12]
    if returns:
        assert note == "Seen again at 13.5 s, on a keyframe that was added."
        assert iou(after.masks, film.truth) > 0.7
        assert after.frame_scores[27] > 0.5
    else:
        assert note == ""
        assert after == before
    (same,), _ = with_returns(
        steerseg, found, (before,), config_of(steerseg, 0), None, lambda stage, fraction: None
    )
    assert same is before
