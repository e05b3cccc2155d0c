"""Logistic regressions over named signals, as presets store them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Calibration(BaseModel):
    """A probability of something, by signals of it.

    Attributes:
        signals: The dataclass of the signals.
        weights: Signal -> weight; a signal without one plays no part.
        bias: Its constant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    signals: ClassVar[type[Any]]

    weights: Mapping[str, float]
    bias: float

    @model_validator(mode="after")
    def _names_signals(self) -> Self:
        unknown = self.weights.keys() - {field.name for field in fields(self.signals)}
        if unknown:
            raise ValueError(f"there is no signal {min(unknown)!r} of {type(self).__name__}")
        return self

    def probability(self, signals: Any) -> float:
        """The probability in [0, 1] by signals of the calibration's kind."""
        values = asdict(signals)
        logit = self.bias + sum(weight * values[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-min(max(logit, -60.0), 60.0)))
