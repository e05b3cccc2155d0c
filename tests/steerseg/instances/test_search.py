"""Several objects of one expression, end to end: a rendered clip with two bats among other objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from steerseg import SteerSeg
from steerseg.demo.dataset import Clip, clips, load_manifest
from steerseg.presence.judge import Case
from steerseg.proposal import Proposal
from steerseg.tracking.sources import Candidates
from steerseg.video import Video, video_from_frames
from steerseg.words.counting import instances_meant
from steerseg.words.reading import Reading


@pytest.fixture(scope="module")
def steerseg() -> SteerSeg:
    return SteerSeg.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def clip() -> Clip:
    manifest = load_manifest("plurals-val")
    entry = next(entry for entry in manifest.clips if entry.expressions[0].text == "all the bats")
    whole = next(clips(replace(manifest, clips=(entry,))))
    return replace(whole, frames=whole.frames[::2], ids=whole.ids[::2])


@pytest.fixture(scope="module")
def video(clip: Clip) -> Video:
    return video_from_frames(clip.frames, fps=clip.fps)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def shown(proposal: Proposal) -> list[NDArray[np.bool_]]:
    return [proposal.tracklets[rank].masks for rank in proposal.shown]


def are_all_found(masks: Sequence[NDArray[np.bool_]], truth: Sequence[NDArray[np.bool_]]) -> bool:
    return all(max((iou(mask, one) for mask in masks), default=0.0) > 0.7 for one in truth)


def test_both_of_two_like_objects_are_shown_and_nothing_else(
    steerseg: SteerSeg, clip: Clip, video: Video
) -> None:
    (expression,) = clip.entry.expressions
    truth = [clip.ids == target + 1 for target in expression.targets]
    found = steerseg.propose(video, expression.text)
    assert len(truth) == len(found.shown) == 2
    assert are_all_found(shown(found), truth)
    opinions = [found.tracklets[rank].opinion for rank in found.shown]
    assert {str(opinion) for opinion in opinions} == {"accepted: looks like “bat”"}
    assert found.attributes  # they say which bat the model thought of, and so stay out of the maps

    by_maps = steerseg.propose(video, expression.text, config=replace(steerseg.config, instances="maps"))
    assert not are_all_found(shown(by_maps), truth)
    assert all(tracklet.opinion is None for tracklet in by_maps.tracklets)


def test_where_nothing_looks_at_candidates_the_maps_alone_tell_how_many(
    steerseg: SteerSeg, clip: Clip, video: Video
) -> None:
    (expression,) = clip.entry.expressions
    truth = [clip.ids == target + 1 for target in expression.targets]
    config = replace(steerseg.config, reasoning=False)  # which the judge of kinds needs
    found = steerseg.propose(video, "both bats", config=config)
    assert len(found.shown) == 2
    assert are_all_found(shown(found), truth)
    assert all(tracklet.opinion is None for tracklet in found.tracklets)


def test_an_expression_of_one_object_is_sought_as_before(steerseg: SteerSeg, video: Video) -> None:
    one = steerseg.propose(video, "the chair")
    same = steerseg.propose(video, "the chair", config=replace(steerseg.config, instances="maps"))
    assert one.several == same.several == ()
    assert [tracklet.rles for tracklet in one.tracklets] == [tracklet.rles for tracklet in same.tracklets]


def test_where_no_point_gives_a_mask_the_search_ends_with_nothing(steerseg: SteerSeg, video: Video) -> None:
    config = steerseg.config
    features = steerseg.encode(video, config)
    maps = steerseg.ground(features, "bat", (), config, steerseg.steering(config))
    none = steerseg.tracker.propagate(features.encoded, [], frames=maps.keyframes)
    case = Case(video, Reading("bat"), "", maps, none, features.context)
    both = instances_meant("both bats")
    assert both is not None
    candidates, ranking = steerseg.instances.search(
        case, features.encoded, Candidates((), none), both, config, lambda done: None
    )
    assert ranking == ()
    assert not candidates.on_keyframes.candidates
