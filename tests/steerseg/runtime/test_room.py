"""Memory that runs out: what is kept is given up, and the work gives the same answer with less."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerseg import SteerSeg
from steerseg.runtime.room import MOST_HALVINGS, Room
from steerseg.video import Video, video_from_frames


def failing(times: int) -> Callable[[], str]:
    left = [times]

    def work() -> str:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("made up")
        return "done"

    return work


def test_work_is_done_again_after_those_who_can_gave_memory_up(caplog: pytest.LogCaptureFixture) -> None:
    room, given = Room(), []
    room.add(lambda more: given.append(("kept", more)))
    room.add(lambda more: given.append(("captured", more)))
    with caplog.at_level(logging.WARNING):
        assert room.work("grounding", failing(2)) == "done"
    assert given == [("kept", False), ("captured", False), ("kept", True), ("captured", True)]
    assert room.halvings == 2
    assert "ran out during grounding" in caplog.text
    assert "1/4 of the first" in caplog.text


def test_memory_that_never_suffices_is_an_error_and_is_not_tried_for_ever() -> None:
    room = Room()
    with pytest.raises(torch.OutOfMemoryError):
        room.work("grounding", failing(MOST_HALVINGS + 1))
    assert room.halvings == MOST_HALVINGS
    with pytest.raises(torch.OutOfMemoryError):
        room.work("grounding", failing(1))


def test_other_errors_are_nobody_elses_business() -> None:
    room = Room()
    with pytest.raises(KeyError):
        room.work("grounding", lambda: {}["nothing"])
    assert room.halvings == 0


def clip() -> Video:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 45, 70, 3), dtype=np.uint8)
    return video_from_frames(pixels, fps=10)


@pytest.mark.parametrize(
    "where", ["lvlm.encode_vision", "lvlm.answer", "lvlm.attend", "tracker.segmenter.step"]
)
def test_a_proposal_is_the_same_though_memory_ran_out(
    preset: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    expected = steerseg.propose(clip(), "the red car")
    steerseg.forget()
    budget, left = steerseg._prefixes.budget, [2]
    *path, name = where.split(".")
    owner: Any = steerseg
    for part in path:
        owner = getattr(owner, part)
    work = getattr(owner, name)

    def run_out(*args: Any, **kwargs: Any) -> Any:
        answer = work(*args, **kwargs)
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("made up")
        return answer

    monkeypatch.setattr(owner, name, run_out)
    again = steerseg.propose(clip(), "the red car")
    assert steerseg.room.halvings == 2
    assert steerseg._prefixes.budget == budget // 4
    assert steerseg.tracker.encoder.batch == 2
    assert [t.rles for t in again.tracklets] == [t.rles for t in expected.tracklets]
    assert [t.score for t in again.tracklets] == pytest.approx(
        [t.score for t in expected.tracklets], abs=1e-5
    )


def test_frames_are_encoded_fewer_at_once_and_their_features_leave_the_device(preset: Path) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    encoder = steerseg.tracker.encoder
    encoded = steerseg.open(clip())
    encode, asked = steerseg.tracker.segmenter.encode_frames, []

    def encode_few(frames: np.ndarray) -> Any:
        asked.append(len(frames))
        if len(frames) > 1:
            raise torch.OutOfMemoryError("made up")
        return encode(frames)

    steerseg.tracker.segmenter.encode_frames = encode_few  # type: ignore[method-assign]
    steerseg.tracker.encode(encoded)
    assert asked == [4, 4, 2, *[1] * 9]
    assert encoder.batch == 1
    assert not encoded.missing(range(9))
    assert encoded.device == torch.device("cpu")
