from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from steerseg import SteerSeg
from steerseg.demo.dataset import render_scene
from steerseg.demo.language import referrals
from steerseg.demo.sprites import load_atlas, load_catalogue
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.presence.localisation import Positions, agreement, read_positions
from steerseg.video import Video


@pytest.mark.parametrize(
    ("answer", "centres"),
    [
        ("10,35 hidden", ((0.1, 0.35), None)),
        ("[[10.5, 35], null]", ((0.105, 0.35), None)),
        ("```json\n[[10, 35], [ 20 ,40 ]]\n```", ((0.1, 0.35), (0.2, 0.4))),
    ],
)
def test_stated_positions_are_read(answer: str, centres: tuple[tuple[float, float] | None, ...]) -> None:
    assert read_positions(answer, 2) == Positions(centres)


@pytest.mark.parametrize("answer", ["", "10,35", "10,35 20,40 30,45", "on the left", "120,35 10,10"])
def test_an_answer_that_states_other_than_asked_is_no_statement(answer: str) -> None:
    assert read_positions(answer, 2) is None


def masks_at(*centres: tuple[float, float] | None) -> torch.Tensor:
    """(1, K, 20, 40) masks of squares around centres."""
    masks = torch.zeros(1, len(centres), 20, 40)
    for k, centre in enumerate(centres):
        if centre is not None:
            x, y = round(centre[0] * 40), round(centre[1] * 20)
            masks[0, k, y - 1 : y + 1, x - 1 : x + 1] = 1
    return masks


def test_a_tracklet_where_the_object_is_said_to_be_agrees_and_one_elsewhere_does_not() -> None:
    stated = Positions(((0.25, 0.5), (0.5, 0.5)))
    there = masks_at(
        (0.25, 0.5), (0.25, 0.5), (0.4, 0.5), (0.6, 0.5)
    )  # the second slice's mean is its middle
    elsewhere = masks_at((0.75, 0.2), (0.75, 0.2), (0.9, 0.2), (0.9, 0.2))
    both = agreement(torch.cat([there, elsewhere]), stated, temporal_merge=2)
    assert both[0] == pytest.approx(1.0, abs=1e-5)
    assert both[1] < 0.01


def test_hidden_agrees_with_empty_masks_alone_and_an_odd_last_frame_counts() -> None:
    hidden = Positions((None, (0.5, 0.5)))
    empty_then_there = masks_at(None, None, (0.5, 0.5))
    always_there = masks_at((0.5, 0.5), (0.5, 0.5), (0.5, 0.5))
    never_there = masks_at(None, None, None)
    grades = agreement(torch.cat([empty_then_there, always_there, never_there]), hidden, temporal_merge=2)
    assert grades.tolist() == pytest.approx([1.0, 0.5, 0.5], abs=1e-5)


def scene_of_two_alike() -> tuple[Video, str, np.ndarray]:
    """A clip of two objects of one name, an expression that tells them apart by place, and the masks of its object."""
    spec = WorldSpec(sizes=((270, 480),), objects=(2, 4), frames=(24, 24), pairs="any")
    catalogue = load_catalogue(spec.styles)
    rng = np.random.default_rng(3)
    while True:
        scene = sample_scene(rng, spec)
        names = [catalogue.names[sprite] for sprite in scene.sprite]
        for referral in referrals(scene, rng):
            if referral.kind == "spatial" and names.count(referral.name) > 1:
                frames, ids = render_scene(scene, load_atlas(spec.styles))
                video = Video(frames, np.arange(len(frames)) / 12.0, 12.0, "scene", "scene of two alike")
                return video, referral.expression, ids == referral.targets[0] + 1


def test_the_demo_says_where_an_object_is_and_ranks_by_it() -> None:
    steerseg = SteerSeg.from_pretrained("demo", device="cpu")
    video, expression, truth = scene_of_two_alike()
    proposal = steerseg.propose(video, expression)
    assert proposal.positions is not None
    rows, columns = np.nonzero(truth[: len(truth) // 4].any(axis=0))
    x, y = proposal.positions.centres[0] or (-1.0, -1.0)
    assert abs(x - columns.mean() / video.width) < 0.1
    assert abs(y - rows.mean() / video.height) < 0.15

    without = replace(steerseg.config, localisation=False)
    features = steerseg.encode(video, without)
    maps = proposal.maps
    candidates = steerseg.find_candidates(features, maps, without)
    plain = steerseg.rank(candidates, maps, without)
    by_place = steerseg.rank(candidates, maps, steerseg.config, proposal.positions)
    assert all(ranked.score == ranked.correlation for ranked in plain)
    assert [ranked.score for ranked in by_place] == sorted((r.score for r in by_place), reverse=True)
    assert proposal.best.score == pytest.approx(by_place[0].score, abs=1e-4)
    assert steerseg.propose(video, expression, config=without).positions is None
