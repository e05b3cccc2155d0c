"""How likely the first candidate is what an expression means: signals of its rank, and their calibration (our choice).

The rank score orders the candidates of one expression. Of two expressions it says less: a correlation of 0.5 is much on
a map with two peaks, and little on one with a single peak. So a logistic regression over what a proposal leaves anyway
says how likely it is right. It is fitted for one preset; others have no confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from steerseg.presence.calibration import Calibration
from steerseg.presence.signals import Look
from steerseg.ranking import RankedCandidate

_MOST_NATS = 6.0
_CENTRE = 0.5  # an agreement that speaks neither for a candidate nor against it


@dataclass(frozen=True)
class ConfidenceSignals:
    """What tells whether the first candidate is what an expression means.

    Attributes:
        correlation: Of the candidate with the maps, in [-1, 1].
        placed: How much more than half it agrees with stated positions, in [-0.5, 0.5]; 0 where none are stated.
        stated: 1 where positions are stated, else 0.
        motion: How much more than half it moves as stated, in [-0.5, 0.5]; 0 where no motion is stated.
        moving: 1 where a motion is stated, else 0.
        rival: Rank score of the next candidate, in [-1, 1]; 0 where there is none.
        presence: Log-odds of the expression's presence, clipped to 6 nats either way.
        predicted_iou: The segmenter's own estimate in [0, 1] for the candidate's point.
        visible: Mean probability in [0, 1] that it is visible on the keyframes.
        agreement: Pearson correlation of the frame and the video map, in [-1, 1].
    """

    correlation: float
    placed: float
    stated: float
    motion: float
    moving: float
    rival: float
    presence: float
    predicted_iou: float
    visible: float
    agreement: float


class ConfidenceCalibration(Calibration):
    """A logistic regression over :class:`ConfidenceSignals`; see :class:`steerseg.presence.calibration.Calibration`."""

    signals: ClassVar[type[ConfidenceSignals]] = ConfidenceSignals


def confidence_signals(ranking: Sequence[RankedCandidate], look: Look, presence: float) -> ConfidenceSignals:
    """The signals of the first of ranked candidates.

    Args:
        ranking: At least one, best first.
        look: What was looked at to judge presence.
        presence: Of the expression, in [0, 1].
    """
    first = ranking[0]
    share = min(max(presence, 1e-9), 1 - 1e-9)
    log_odds = math.log(share / (1 - share))
    return ConfidenceSignals(
        correlation=first.correlation,
        placed=0.0 if first.placed is None else first.placed - _CENTRE,
        stated=float(first.placed is not None),
        motion=0.0 if first.motion is None else first.motion - _CENTRE,
        moving=float(first.motion is not None),
        rival=ranking[1].score if len(ranking) > 1 else 0.0,
        presence=min(max(log_odds, -_MOST_NATS), _MOST_NATS),
        predicted_iou=look.predicted_iou,
        visible=look.visible,
        agreement=look.agreement,
    )
