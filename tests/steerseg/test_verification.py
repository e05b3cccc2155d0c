"""Candidates are accepted, doubted or rejected by the LVLM, whatever form its answer has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steerseg.lvlm.answer import Answer
from steerseg.lvlm.base import LVLM
from steerseg.lvlm.vision import Timing
from steerseg.pipeline import SteerSeg
from steerseg.presets import load_preset
from steerseg.reasoning import PromptTexts
from steerseg.verification import Opinion, order_by_opinion, outlined, parse_opinions, verify
from steerseg.video import video_from_frames
from tests.support.tiny_lvlms import TINY, save_tiny_lvlm

DOG, CAT = Opinion("accepted", "a dog on the left"), Opinion("rejected", "a cat")


@pytest.mark.parametrize(
    ("answer", "opinions"),
    [
        (
            '{"1": {"verdict": "accept", "reason": "a dog on the left"}, '
            '"2": {"verdict": "reject", "reason": "a cat"}}',
            (DOG, CAT),
        ),
        (
            '```json\n{"candidates": [{"number": 2, "verdict": "Rejected", "reason": "a cat."}, '
            '{"object": "1", "verdict": "accepted", "reason": "a dog on the left"}]}```',
            (DOG, CAT),
        ),
        ('[["accept", "a dog on the left"], ["reject", "a cat"]]', (DOG, CAT)),
        ("{'1': 'accept: a dog on the left', '2': 'rej", (DOG, None)),
        ("1. Accept - a dog on the left\n2. reject (a cat)", (DOG, CAT)),
        ('{"verdict": "doubt"}', (Opinion("doubted"), None)),
        ("I am sorry, I cannot see any video.", (None, None)),
        ("", (None, None)),
        ("[" * 5000, (None, None)),
    ],
)
def test_opinions_are_read_leniently(answer: str, opinions: tuple[Opinion | None, ...]) -> None:
    assert parse_opinions(answer, 2) == opinions


def test_what_is_accepted_comes_first_and_what_is_rejected_last() -> None:
    assert order_by_opinion([CAT, None, DOG, Opinion("doubted"), DOG]) == [2, 4, 1, 3, 0]


def test_candidates_are_outlined_and_keep_their_colour_inside() -> None:
    frames = np.full((2, 90, 160, 3), 100, dtype=np.uint8)
    masks = np.zeros((2, 2, 90, 160), dtype=bool)
    masks[0, :, 30:70, 20:60] = True
    masks[1, 0, 40:80, 100:140] = True  # on the first frame only
    shown = outlined(frames, list(masks))
    assert (frames == 100).all()
    assert (shown[:, 45:60, 35:50] == 100).all()
    changed = (shown != 100).any(axis=-1)
    assert changed[0, :, 80:].any()
    assert not changed[1, :, 80:].any()
    assert changed[:, :, :80].any(axis=(1, 2)).all()


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_is_asked_through_its_chat(family: str, tmp_path: Path, preset: Path) -> None:
    save_tiny_lvlm(tmp_path, family)
    lvlm = LVLM.from_pretrained(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)
    small = load_preset(preset)
    frames = np.random.default_rng(0).integers(0, 255, (4, 60, 100, 3), dtype=np.uint8)
    masks = np.zeros((2, 4, 60, 100), dtype=bool)
    masks[:, :, 20:40, 20:40] = True
    asked: list[str] = []
    answer = lvlm.answer

    def listen(text: str, *args: object, **options: object) -> Answer:
        asked.append(text)
        return answer(text, *args, **options)  # type: ignore[arg-type]

    lvlm.answer = listen  # type: ignore[method-assign]
    opinions = verify(
        lvlm, small, small.config, frames, list(masks), "the dog", Timing.even(len(frames), 1.0, 2)
    )
    assert len(opinions) == 2
    assert asked == [PromptTexts().verification_question("the dog", 2)]


def test_opinions_rank_and_stand_beside_the_tracklets(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    frames = np.random.default_rng(1).integers(0, 255, (8, 60, 100, 3), dtype=np.uint8)
    video = video_from_frames(frames, fps=8)
    config = replace(steerseg.config, point_threshold=0.3, alternatives=2)
    plain = steerseg.propose(video, "the dog", config=config)
    assert len(plain.tracklets) == 2
    assert {one.opinion for one in plain.tracklets} == {None}
    said = '{"1": {"verdict": "reject", "reason": "a cat"}, "2": {"verdict": "accept"}}'
    first = steerseg.lvlm.answer

    def speak(text: str, *args: object, **options: object) -> Answer:
        if "numbered" in text:
            return Answer(said, ())
        return first(text, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(steerseg.lvlm, "answer", speak)
    verified = steerseg.propose(video, "the dog", config=replace(config, verification="ask"))
    assert [one.score for one in verified.tracklets] == [one.score for one in reversed(plain.tracklets)]
    assert [str(one.opinion) for one in verified.tracklets] == ["accepted", "rejected: a cat"]


def test_what_is_not_calibrated_is_not_looked_at(preset: Path) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    assert not steerseg.judge.can_judge(replace(steerseg.config, verification="look"))
