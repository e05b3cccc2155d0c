"""The fit of a calibration: a logistic regression over signals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fit_logistic(
    signals: Array, positive: Array, names: Sequence[str], *, ridge: float
) -> tuple[dict[str, float], float]:
    """Weights by name, and the constant, by Newton's method on standardised signals.

    Args:
        signals: (N, S).
        positive: (N,) 1 or 0.
        names: Of the S signals.
        ridge: Weight of the squared weights, as a share of the number of rows.
    """
    mean, spread = signals.mean(axis=0), np.maximum(signals.std(axis=0), 1e-6)
    x = np.column_stack([(signals - mean) / spread, np.ones(len(signals))])
    penalty = np.diag([ridge * len(x)] * len(names) + [0.0])
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - positive) + penalty @ weights
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    plain = weights[:-1] / spread
    by_name = {name: round(float(weight), 4) for name, weight in zip(names, plain, strict=True)}
    return by_name, round(float(weights[-1] - plain @ mean), 4)
