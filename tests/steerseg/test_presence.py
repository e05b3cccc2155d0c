from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from steerseg.demo.dataset import clips, load_manifest
from steerseg.errors import ConfigError
from steerseg.lvlm.base import LVLM
from steerseg.pipeline import SteerSeg
from steerseg.presence.judge import Judge
from steerseg.presence.look import Expectation
from steerseg.presence.signals import (
    Look,
    PresenceCalibration,
    Said,
    head_noun,
    is_negated,
    known_share,
    names_nothing,
    signals_of,
)
from steerseg.presets import BUILT_IN, load_preset
from steerseg.video import video_from_frames
from steerseg.words.learning import Lexicon
from steerseg.words.naming import BEGINNING, GREY, SIDE, crops_vision

LEXICON = Lexicon(
    called={"dog": ("dog",), "animal": ("cat", "dog"), "bell pepper": ("bell pepper",), "bell": ("bell",)},
    words=("the", "red", "dog", "animal", "not", "moving", "that", "is", "left"),
)


def look(found: Said, read: Said) -> Look:
    return Look(read, found, log_ratio=4.0, score=0.6, agreement=0.4, predicted_iou=0.9, visible=1.0)


@pytest.mark.parametrize(
    ("expression", "noun"),
    [
        ("the red dogs that chase an animal", "dog"),
        ("the bell pepper on the left", "bell pepper"),
        ("what a dog would eat", ""),
        ("something that an animal eats", ""),
        ("the giraffe", ""),
    ],
)
def test_the_noun_that_an_expression_is_about(expression: str, noun: str) -> None:
    assert head_noun(expression, LEXICON) == noun


def test_signals_say_what_speaks_for_the_object_and_against_it() -> None:
    right = signals_of("the red dog", look(Said(("dog", "red"), 0.9), Said(("dog",), 0.8)), LEXICON)
    assert (right.named, right.read, right.coloured, right.known) == (0.9, 1.0, 0.0, 1.0)
    wrong = signals_of("the red dog", look(Said(("bell", "blue"), 0.9), Said(("dog",), 0.8)), LEXICON)
    assert (wrong.named, wrong.named_as_read, wrong.coloured) == (-0.9, -0.9, -1.0)
    assert wrong.expected == 0.5
    strange = signals_of("der hund", look(Said(("bell",), 0.9), Said(("bell",), 0.8)), LEXICON)
    assert (strange.named, strange.nameless, strange.known) == (0.0, 1.0, 0.0)


def test_only_what_denies_something_is_a_negation() -> None:
    assert is_negated("the dog that isn't red")
    assert not is_negated("the dog that is not moving")
    assert not is_negated("the knot")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("the one that goes away and comes back", True),
        ("the thing which keeps turning", True),
        ("something on the far left", True),
        ("the two smallest objects", False),  # the demo never saw the plural of "object"
        ("the slowest", True),
        ("the blue one", False),  # a colour can be looked at
        ("something you could pay with", False),
        ("the one that is not on the left", False),
        ("the dog that goes away", False),
        ("???", False),
        ("the one", True),
    ],
)
def test_what_only_says_how_something_moves_or_where_it_is_names_nothing(
    expression: str, expected: bool
) -> None:
    assert names_nothing(expression, load_preset(BUILT_IN["demo"]).load_lexicon()) is expected
    assert not names_nothing(expression, Lexicon()), "where nobody lists such words"


def test_where_no_words_are_known_all_are_taken_for_known() -> None:
    assert known_share("das rote auto", Lexicon()) == 1.0


def test_a_calibration_names_signals_that_there_are() -> None:
    with pytest.raises(ValidationError, match="tail"):
        PresenceCalibration(weights={"tail": 1.0}, bias=0.0, threshold=0.5)


@pytest.mark.parametrize(
    ("value", "stance"), [(0.1, "rejected"), (0.4, "doubted"), (0.6, "doubted"), (0.7, "accepted")]
)
def test_a_presence_is_rejected_doubted_or_accepted(preset: Path, value: float, stance: str) -> None:
    steerseg = SteerSeg.from_pretrained(preset, device="cpu")
    with pytest.raises(ConfigError, match="not calibrated"):
        steerseg.judge.stance(value)
    calibration = PresenceCalibration(weights={}, bias=0.0, threshold=0.35)
    calibrated = steerseg.preset.model_copy(update={"presence": calibration})
    judge = Judge(steerseg.lvlm, calibrated, Lexicon())
    assert judge.stance(value) == stance


def test_published_presets_are_not_calibrated() -> None:
    assert {name for name, folder in BUILT_IN.items() if load_preset(folder).presence} == {"demo"}


@torch.no_grad()
def test_what_is_expected_is_the_models_own_probability(preset: Path) -> None:
    small = load_preset(preset)
    lvlm = LVLM.from_pretrained(small.lvlm, device=torch.device("cpu"), dtype=torch.float32)
    grey = np.full((small.keyframes, SIDE, SIDE, 3), GREY, dtype=np.uint8)
    vision = crops_vision(lvlm, small, grey)

    def probability(expression: str, name: str) -> float:
        chat = lvlm.chats.write(small.texts.reasoning_question(expression), vision) + BEGINNING
        inputs = lvlm.chats.with_positions(lvlm.chats.inputs([chat + name], vision))
        count = len(name)  # the tokenizer knows single bytes
        logits = lvlm.model(**lvlm.reader.on_device(inputs)).logits[0, -count - 1 : -1].log_softmax(dim=-1)
        return float(logits.gather(1, inputs["input_ids"][0, -count:, None]).sum())

    expectation = Expectation(lvlm, small)
    for expression, name in (("the dog", "dog"), ("a cat on the left", "dog"), ("the dog", "bell")):
        expected = probability(expression, name) - probability("the thing", name)
        assert expectation.log_ratio(expression, name) == pytest.approx(expected, abs=1e-4)
    assert expectation.log_ratio("the dog", "") == 0.0


def test_the_demo_refuses_what_is_not_there_and_no_word_that_may_be_a_teams_own() -> None:
    steerseg = SteerSeg.from_pretrained("demo", device="cpu")
    assert steerseg.config.presence == "refuse-known"
    clip = next(clips(load_manifest("presence-val")))
    video = video_from_frames(clip.frames, fps=clip.fps)
    there = steerseg.propose(video, "pls track the green truck")
    assert there.read_as == "the green truck"
    assert there.shown == (0,)
    assert not there.presence.refused
    absent = steerseg.propose(video, "the purple giraffe")
    assert absent.presence.refused
    assert absent.presence.understood
    assert absent.shown == ()
    assert absent.tracklets  # to choose from, all the same
    strange = steerseg.propose(video, "das rote auto")
    assert not strange.presence.refused
    assert not strange.presence.understood
    assert strange.shown == (0,)
    unnamed = steerseg.propose(video, "the one that goes away and comes back")
    assert unnamed.presence.value is not None
    assert unnamed.shown == (0,), "there is no name to hold against what was found"
    values = [one.presence.value or 0.0 for one in (there, absent, strange)]
    assert min(values[0] - value for value in values[1:]) > 0.3
    assert (
        steerseg.propose(video, "das rote auto", config=replace(steerseg.config, presence="refuse")).shown
        == ()
    )
