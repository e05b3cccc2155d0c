"""Means with bootstrap intervals. Needs numpy alone, so that a server may compare without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(
    values: NDArray[np.float64],
    clips: list[str],
    *,
    weights: NDArray[np.float64] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over expressions with a percentile interval from resampling whole clips.

    Expressions of one clip share its difficulty, so clips, not expressions, are drawn with replacement. For a
    paired gain pass the differences.

    Args:
        values: (N,) one value an expression.
        clips: The clip of each expression.
        weights: (N,) how much each value counts, above 0; all the same where left out.
        level: Coverage of the interval.
        draws: Resamples.
        seed: Of the resampling, so that a table can be reproduced.

    Raises:
        ValueError: If there are no values, or not as many clips as values.
    """
    if len(values) == 0 or len(values) != len(clips):
        raise ValueError(
            f"{len(values)} values for {len(clips)} clips; need one clip per value, at least one"
        )
    _, member = np.unique(np.array(clips), return_inverse=True)
    counted = np.ones(len(values)) if weights is None else weights
    sums = np.bincount(member, weights=values * counted)
    counts = np.bincount(member, weights=counted)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.average(values, weights=counted)), float(low), float(high), len(values))
