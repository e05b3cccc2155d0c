"""Candidates from SAM 3's concepts: found, ranked and tracked, and what takes their place where there are none."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steerseg.cli.segment import summary
from steerseg.errors import ModelError
from steerseg.evaluation.runner import Models
from steerseg.grounding import GroundingMaps
from steerseg.output.proposal import load_proposal
from steerseg.pipeline import SteerSeg
from steerseg.presets import open_preset
from steerseg.proposal import Proposal
from steerseg.ranking import rank_scores
from steerseg.segmenters.concepts import ConceptTrack
from steerseg.tracking.sources import CandidateFinder, without_duplicates
from steerseg.video import Video, video_from_frames
from tests.support.tiny_concepts import save_tiny_sam3


@pytest.fixture(scope="module")
def folder(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset whose candidates come from a SAM 3 that lies beside it."""
    folder = tmp_path_factory.mktemp("concepts")
    save_tiny_sam3(folder / "sam3")
    write_preset(folder, preset, concepts="sam3")
    return folder


@pytest.fixture(scope="module")
def steerseg(folder: Path) -> SteerSeg:
    return SteerSeg.from_pretrained(folder, device="cpu")


def write_preset(folder: Path, original: Path, **changes: Any) -> None:
    card = json.loads((original / "preset.json").read_text())
    paths = {key: str(original / card[key]) for key in ("lvlm", "sam2", "soft_prompts")}
    card["pipeline"] |= {"candidates": "concepts", "point_threshold": 0.3}
    (folder / "preset.json").write_text(json.dumps({**card, **paths, **changes}))


def film(frames: int = 8) -> Video:
    pictures = np.full((frames, 45, 70, 3), 40, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        picture[10:25, 5 + 5 * index : 20 + 5 * index] = (230, 40, 30)
        picture[28:40, 50 - 5 * index : 62 - 5 * index] = (30, 60, 240)
    return video_from_frames(pictures, fps=8.0)


def test_concepts_give_tracks_that_maps_rank(steerseg: SteerSeg, tmp_path: Path) -> None:
    stages: list[tuple[str, float]] = []
    proposal = steerseg.propose(film(), "the red car", progress=lambda *stage: stages.append(stage))
    assert proposal.note == ""
    assert proposal.versions["concepts"].startswith("sam3:")
    assert len(proposal.tracklets) == 2
    assert all(tracklet.masks.shape == (8, 45, 70) for tracklet in proposal.tracklets)

    found = steerseg.finder.find(
        steerseg.open(film()), (), proposal.maps.keyframes, ("red car",), steerseg.config, lambda _: None
    )
    scores = rank_scores(
        found.on_keyframes.soft_masks(),
        proposal.maps,
        frame_weight=steerseg.config.frame_weight,
        temporal_merge=steerseg.lvlm.family.temporal_merge,
    )
    best = sorted(scores.tolist(), reverse=True)[:2]
    assert [tracklet.score for tracklet in proposal.tracklets] == pytest.approx(best)
    of_candidates = [fraction for stage, fraction in stages if stage == "candidates"]
    assert of_candidates == sorted(of_candidates)
    assert of_candidates[-1] == 1.0
    proposal.save(tmp_path)
    assert load_proposal(tmp_path).note == ""


def test_a_track_goes_on_from_its_surest_keyframe(steerseg: SteerSeg) -> None:
    found = steerseg.finder.find(
        steerseg.open(film()), (), (0, 2, 4, 6), ("red car",), steerseg.config, lambda _: None
    )
    for candidate, presence in zip(
        found.on_keyframes.candidates, found.on_keyframes.frame_scores, strict=True
    ):
        assert candidate.first_frame == (0, 2, 4, 6)[int(presence.argmax())]


def test_a_video_of_keyframes_alone_keeps_the_masks_of_sam_3(steerseg: SteerSeg) -> None:
    video = film(5)
    proposal = steerseg.propose(video, "the red car")
    assert proposal.maps.keyframes == (0, 1, 2, 3, 4)
    found = steerseg.finder.find(
        steerseg.open(video), (), (0, 1, 2, 3, 4), ("red car",), steerseg.config, lambda _: None
    )
    masks = [found.on_keyframes.masks(index) for index in range(len(found))]
    assert all(any((tracklet.masks == one).all() for one in masks) for tracklet in proposal.tracklets)


# --- what takes their place


def test_missing_weights_are_said_and_points_take_their_place(
    preset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_preset(tmp_path, preset, concepts=str(tmp_path / "nowhere"))
    with caplog.at_level(logging.WARNING, logger="steerseg"):
        steerseg = SteerSeg.from_pretrained(tmp_path, device="cpu")
    assert "SAM 3's concepts are off" in steerseg.switched_off
    assert steerseg.switched_off in caplog.text
    assert_points(steerseg, "the red car", "SAM 3 is not there")
    with pytest.raises(ModelError, match="SAM 3's concepts are off"):
        _ = Models(tmp_path, "cpu").steerseg


def test_what_sam_3_does_not_find_is_said(steerseg: SteerSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steerseg.finder.concepts is not None
    monkeypatch.setattr(steerseg.finder.concepts.model, "score_threshold_detection", 0.99)
    assert_points(steerseg, "the red car", "SAM 3 finds no “red car” on the keyframes")


def test_an_expression_without_a_noun_is_said(steerseg: SteerSeg) -> None:
    assert_points(steerseg, "on the left", "the expression has no noun phrase that SAM 3 reads")


def assert_points(steerseg: SteerSeg, expression: str, reason: str) -> None:
    """The proposal is that of point prompts, and says why, wherever a person looks."""
    config = replace(steerseg.config, reasoning=False)
    proposal = steerseg.propose(film(), expression, config=config)
    by_points = steerseg.propose(film(), expression, config=replace(config, candidates="points"))
    assert proposal.note == f"Candidates come from point prompts: {reason}."
    assert by_points.note == ""
    assert [one.rles for one in proposal.tracklets] == [one.rles for one in by_points.tracklets]
    assert proposal.tracklets
    assert proposal.note in summary(proposal, Path("out"))


def test_a_note_is_kept(make_proposal: Callable[..., Proposal], tmp_path: Path) -> None:
    make_proposal(note="Candidates come from point prompts: SAM 3 is not there.").save(tmp_path)
    assert load_proposal(tmp_path).note.endswith("SAM 3 is not there.")


def test_a_command_may_ask_for_concepts(preset: Path) -> None:
    changed = open_preset(preset, candidates="concepts")
    assert changed.config.candidates == "concepts"
    assert changed.config.alternatives == open_preset(preset).config.alternatives == 2
    assert changed.concepts == "facebook/sam3"


# --- by hand


class Found:
    """Stands for SAM 3 where a test says what it finds."""

    version = "found"

    def __init__(self, tracks: Sequence[ConceptTrack]) -> None:
        self.tracks = list(tracks)

    def can_read(self, phrase: str) -> bool:
        return len(phrase) < 20

    def track(
        self, frames: NDArray[np.uint8], phrases: Sequence[str], progress: Callable[[float], None]
    ) -> list[ConceptTrack]:
        return self.tracks


def track(left: int, right: int, score: float = 0.9, *, frames: int = 4) -> ConceptTrack:
    """An object between two columns of 16; it is surest on the last frame."""
    logits = torch.full((frames, 16, 16), -6.0)
    logits[:, 4:12, left:right] = 6.0
    return ConceptTrack("car", score, logits, np.linspace(0.5, 0.9, frames, dtype=np.float32))


def find(steerseg: SteerSeg, tracks: Sequence[ConceptTrack], *phrases: str) -> Any:
    finder = CandidateFinder(steerseg.tracker, Found(tracks))  # type: ignore[arg-type]
    return finder.find(
        steerseg.open(film()), (), (0, 2, 4, 6), phrases or ("car",), steerseg.config, lambda _: None
    )


def test_maps_choose_among_tracks_whatever_sam_3_is_surer_of(steerseg: SteerSeg) -> None:
    found = find(steerseg, [track(1, 6, 0.95), track(10, 15, 0.75)])
    maps = torch.zeros(4, 8, 8)
    maps[:, 2:6, 5:7] = 1.0
    ranking = steerseg.rank(found, GroundingMaps((0, 2, 4, 6), maps, maps[::2], maps), steerseg.config)
    assert [ranked.index for ranked in ranking] == [1, 0]
    assert ranking[0].score > 0.5 > ranking[1].score


def test_an_object_of_two_phrases_is_one_candidate() -> None:
    better, same, other = track(1, 6, 0.9), track(1, 6, 0.8), track(9, 14, 0.7)
    assert without_duplicates([same, other, better], 0.7) == [better, other]


def test_tracks_without_a_mask_are_no_candidates(steerseg: SteerSeg) -> None:
    found = find(steerseg, [track(3, 3), track(1, 6)])
    assert len(found) == 1
    assert found.on_keyframes.candidates[0].first_frame == 6


def test_what_is_left_out_is_said(steerseg: SteerSeg) -> None:
    crowd = [track(index % 12, index % 12 + 2) for index in range(32)]
    found = find(steerseg, crowd, "car", "a very long phrase indeed")
    assert found.note == (
        "“a very long phrase indeed” is too long for SAM 3. SAM 3 finds 32 objects, and looks for no more."
    )
