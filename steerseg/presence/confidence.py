"""How likely the first candidate is what an expression means: a calibration (our choice).

The rank score orders the candidates of one expression. Of two expressions it says less: a correlation of 0.5 is much on
a map with two peaks, and little on one with a single peak. So a logistic regression over what a proposal leaves anyway
says how likely it is right. It is fitted for one preset; others have no confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steerseg.presence.calibration import Calibration
from steerseg.presence.signals import PresenceSignals

EVEN = 0.5
"""A confidence below this says that a tracklet is more likely wrong than right."""


@dataclass(frozen=True)
class ConfidenceSignals:
    """What tells whether the first candidate is what an expression means.

    Attributes:
        score: Its rank score, in [-1, 1].
        predicted_iou: See :class:`steerseg.presence.signals.PresenceSignals`; so for the others.
    """

    score: float
    predicted_iou: float
    named: float
    named_as_read: float
    certainty: float

    @classmethod
    def of(cls, score: float, presence: PresenceSignals) -> ConfidenceSignals:
        """The signals of a candidate with a rank score, that presence was judged by."""
        return cls(score, presence.predicted_iou, presence.named, presence.named_as_read, presence.certainty)


class ConfidenceCalibration(Calibration):
    """A logistic regression over :class:`ConfidenceSignals`; see :class:`steerseg.presence.calibration.Calibration`."""

    signals: ClassVar[type[ConfidenceSignals]] = ConfidenceSignals
