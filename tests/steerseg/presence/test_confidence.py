"""How likely the first candidate is what an expression means."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from steerseg.presence.confidence import ConfidenceCalibration, ConfidenceSignals
from steerseg.presence.signals import Look, Said, signals_of
from steerseg.presets import BUILT_IN, load_preset
from steerseg.words.learning import Lexicon

LOOK = Look(Said(("dog",), 0.9), Said(("dog",), 0.8), 1.0, 0.4, agreement=0.3, predicted_iou=0.7, visible=0.9)
LEXICON = Lexicon(called={"dog": ("dog",), "cat": ("cat",)})


def test_signals_are_the_rank_score_and_some_of_those_of_presence() -> None:
    signals = ConfidenceSignals.of(0.6, signals_of("the dog", LOOK, LEXICON))
    assert signals == ConfidenceSignals(0.6, 0.7, named=0.8, named_as_read=0.8, certainty=0.9)
    other = ConfidenceSignals.of(0.6, signals_of("the cat", LOOK, LEXICON))
    assert (other.named, other.named_as_read) == (-0.8, 0.8)


def test_a_calibration_is_a_logistic_regression_over_signals_that_there_are() -> None:
    signals = ConfidenceSignals(0.4, 0.7, 0.8, 0.8, 0.9)
    calibration = ConfidenceCalibration(weights={"score": 5.0}, bias=-1.0)
    assert calibration.probability(signals) == pytest.approx(1 / (1 + math.exp(-1.0)))
    with pytest.raises(ValidationError, match="'tail' of ConfidenceCalibration"):
        ConfidenceCalibration(weights={"tail": 1.0}, bias=0.0)


def test_the_demo_alone_has_a_confidence() -> None:
    assert {name for name, folder in BUILT_IN.items() if load_preset(folder).confidence} == {"demo"}
