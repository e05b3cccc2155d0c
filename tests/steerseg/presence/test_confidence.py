"""How likely the first candidate is what an expression means."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from steerseg.presence.confidence import ConfidenceCalibration, confidence_signals
from steerseg.presence.signals import Look, Said
from steerseg.presets import BUILT_IN, load_preset
from steerseg.ranking import RankedCandidate

LOOK = Look(Said(("dog",), 0.9), Said(("dog",), 0.8), 1.0, 0.4, agreement=0.3, predicted_iou=0.7, visible=0.9)


def test_signals_are_of_the_first_candidate_and_its_rival() -> None:
    ranking = [
        RankedCandidate(3, 0.6, 0.4, placed=0.8, motion=0.9),
        RankedCandidate(1, 0.5, 0.7, placed=0.1, motion=0.2),
    ]
    signals = confidence_signals(ranking, LOOK, presence=0.9)
    assert (signals.correlation, signals.rival) == (0.4, 0.5)
    assert (signals.placed, signals.motion) == (pytest.approx(0.3), pytest.approx(0.4))
    assert (signals.stated, signals.moving) == (1.0, 1.0)
    assert signals.presence == pytest.approx(math.log(9))
    assert (signals.agreement, signals.predicted_iou, signals.visible) == (0.3, 0.7, 0.9)


@pytest.mark.parametrize(("presence", "expected"), [(0.0, -6.0), (1.0, 6.0)])
def test_what_is_not_stated_speaks_neither_for_nor_against(presence: float, expected: float) -> None:
    signals = confidence_signals([RankedCandidate(0, 0.6, 0.4)], LOOK, presence)
    assert signals.presence == expected
    assert {signals.placed, signals.motion, signals.stated, signals.moving, signals.rival} == {0.0}


def test_a_calibration_is_a_logistic_regression_over_signals_that_there_are() -> None:
    signals = confidence_signals([RankedCandidate(0, 0.6, 0.4)], LOOK, 0.5)
    calibration = ConfidenceCalibration(weights={"correlation": 5.0}, bias=-1.0)
    assert calibration.probability(signals) == pytest.approx(1 / (1 + math.exp(-1.0)))
    with pytest.raises(ValidationError, match="'tail' of ConfidenceCalibration"):
        ConfidenceCalibration(weights={"tail": 1.0}, bias=0.0)


def test_the_demo_alone_has_a_confidence() -> None:
    assert {name for name, folder in BUILT_IN.items() if load_preset(folder).confidence} == {"demo"}
