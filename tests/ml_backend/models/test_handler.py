"""What the model process does about what it did not expect."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ml_backend.database.tables import ProposalKey
from ml_backend.models.handler import ModelHandler, SegmenterHandler
from ml_backend.models.messages import (
    MaskRequest,
    ModelRequest,
    ProposeRequest,
    SoftPromptsRef,
    is_read_ahead,
)
from ml_backend.models.process import ProcessLostError
from ml_backend.models.reporter import SilentReporter
from ml_backend.proposals import ProposalFiles, StoredProposal
from steerseg import SteerSeg
from steerseg.errors import SteerSegError, VideoError
from steerseg.lvlm import LVLM
from steerseg.lvlm.answer import AskedChat
from steerseg.video import VideoLimits, write_video
from tests.support.refinement_world import save_preset


def handler(monkeypatch: pytest.MonkeyPatch, device: str, error: Exception) -> SegmenterHandler:
    """One that fails at whatever it is asked."""

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(SegmenterHandler, "_answer", fail)
    tracker: Any = SimpleNamespace(device=torch.device(device))
    return SegmenterHandler(tracker, lambda video: tracker, VideoLimits(), correction="frame")


@pytest.mark.parametrize("lost", [True, False])
def test_a_gpu_that_answers_no_more_ends_its_process(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: torch.device) -> None:
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    request: Any = None
    expected = ProcessLostError if lost else ZeroDivisionError
    with pytest.raises(expected):
        handler(monkeypatch, "cuda", ZeroDivisionError())(request, SilentReporter())
    with pytest.raises(VideoError):  # said by us: nobody asks the GPU
        handler(monkeypatch, "cuda", VideoError("empty"))(request, SilentReporter())
    with pytest.raises(ZeroDivisionError):
        handler(monkeypatch, "cpu", ZeroDivisionError())(request, SilentReporter())


def test_videos_are_read_ahead_for_proposals_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", iter(np.zeros((4, 32, 48, 3), dtype=np.uint8)), 10.0)
    models = handler(monkeypatch, "cpu", ZeroDivisionError())
    propose = ProposeRequest(tmp_path / "clip.mp4", "the red thing", None, 3)
    masks = MaskRequest(tmp_path / "clip.mp4", None, {}, {}, frozenset(), propagate=True)
    assert [is_read_ahead(request) for request in (propose, masks)] == [True, False]

    def held(*requests: ModelRequest | None) -> bool:
        answered, upcoming = requests
        models.read_ahead(answered, [] if upcoming is None else [upcoming])
        for thread in threading.enumerate():
            if thread.name == "read-ahead":
                thread.join()
        return models._videos.nbytes > 0

    assert [held(None, masks), held(None, propose)] == [False, True]


def test_the_shown_tracklet_is_tracked_both_ways_where_that_is_asked_for(tmp_path: Path) -> None:
    frames = np.full((10, 90, 160, 3), (200, 210, 190), dtype=np.uint8)
    frames[:, 30:60, 50:90] = (220, 40, 40)
    write_video(tmp_path / "clip.mp4", iter(frames), 10.0)
    models = ModelHandler(SteerSeg.from_pretrained("demo", device="cpu"), VideoLimits())
    request = ProposeRequest(tmp_path / "clip.mp4", "the red thing", None, 3, both_ways=True)
    answer = models(request, SilentReporter())
    assert isinstance(answer, StoredProposal)
    best, *others = answer.tracklets
    assert best.both_ways is not None
    assert set(best.both_ways.frames) <= set(answer.maps.keyframes)
    assert not any(one.both_ways for one in others), "only what is shown"
    files = ProposalFiles(tmp_path)
    kept = files.load(files.save(ProposalKey("digest", "the red thing", "v1"), answer))
    assert kept.tracklets[0].both_ways is not None
    assert kept.tracklets[0].both_ways.frames == best.both_ways.frames
    np.testing.assert_allclose(kept.tracklets[0].both_ways.backwards, best.both_ways.backwards, atol=1e-5)
    plain = models(replace(request, both_ways=False), SilentReporter())
    assert isinstance(plain, StoredProposal)
    assert plain.tracklets[0].both_ways is None


def test_what_is_wrong_with_an_upcoming_proposal_is_said_to_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LVLM, "answers_together", True)
    for name in "ab":
        frames = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
        write_video(tmp_path / f"{name}.mp4", iter(frames), 10.0)
    due = ProposeRequest(tmp_path / "a.mp4", "the red car", None, 2)
    missing = SoftPromptsRef(tmp_path / "none", "0" * 64)
    upcoming = [
        ProposeRequest(tmp_path / "b.mp4", "", None, 2),
        ProposeRequest(tmp_path / "b.mp4", "the dog", None, 2, missing),
        ProposeRequest(tmp_path / "none.mp4", "the dog", None, 2),
    ]
    models = ModelHandler(
        SteerSeg.from_pretrained(save_preset(tmp_path / "preset"), device="cpu"), VideoLimits()
    )
    models.read_ahead(due, upcoming)
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join()
    proposal = models(due, SilentReporter())
    assert isinstance(proposal, StoredProposal)
    for request in upcoming:
        models.read_ahead(request, [])
        with pytest.raises(SteerSegError):
            models(request, SilentReporter())


@pytest.mark.parametrize("urgent", [False, True])
def test_chains_of_thought_of_upcoming_proposals_are_decoded_together(
    urgent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing changes but how often the model decodes; while a person waits, nothing is done for others."""
    preset = save_preset(tmp_path / "preset")
    rng = np.random.default_rng(0)
    for name in "abc":
        write_video(
            tmp_path / f"{name}.mp4", iter(rng.integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)), 10.0
        )
    expressions = {"a": "the red car", "b": "the dog that stays behind", "c": "the other one"}
    requests = [ProposeRequest(tmp_path / f"{name}.mp4", expressions[name], None, 2) for name in "abc"]
    expected = [
        ModelHandler(SteerSeg.from_pretrained(preset, device="cpu"), VideoLimits())(request, SilentReporter())
        for request in requests
    ]
    monkeypatch.setattr(LVLM, "answers_together", True)  # as on a large GPU
    decoded: list[int] = []
    decode = LVLM.decode

    def noted(self: LVLM, chats: Sequence[AskedChat], most: int) -> list[list[tuple[int, float]]]:
        decoded.append(len(chats))
        return decode(self, chats, most)

    monkeypatch.setattr(LVLM, "decode", noted)
    models = ModelHandler(SteerSeg.from_pretrained(preset, device="cpu"), VideoLimits())
    given = []
    for index, request in enumerate(requests):
        models.read_ahead(request, requests[index + 1 :], urgent=urgent)
        for thread in threading.enumerate():
            if thread.name == "read-ahead":
                thread.join()
        given.append(models(request, SilentReporter()))
    assert decoded == (
        [] if urgent else [2]
    )  # the third has nothing upcoming; alone, a CPU's model generates
    for one, other in zip(given, expected, strict=True):
        assert isinstance(one, StoredProposal)
        assert isinstance(other, StoredProposal)
        assert one.attributes == other.attributes
        assert [tracklet.rles for tracklet in one.tracklets] == [
            tracklet.rles for tracklet in other.tracklets
        ]
