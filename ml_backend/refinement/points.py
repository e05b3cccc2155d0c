"""Shares and their differences in points, hundredths of the whole, as pages, logs and reasons show them."""

from __future__ import annotations

from steerseg.statistics import Interval


def points(value: float) -> str:
    """A share in [0, 1] in points, such as ``65.0``."""
    return f"{100 * value:.1f}"


def signed_points(value: float) -> str:
    """A difference of two shares in points with its sign, such as ``−30.2``; without one where it rounds to 0."""
    rounded = round(100 * value, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def points_range(low: float, high: float) -> str:
    """An interval of differences in points, such as ``[−1.2, +3.4]``."""
    return f"[{signed_points(low)}, {signed_points(high)}]"


def describe_gain(gain: Interval) -> str:
    """A gain with its interval, such as ``+6.0 points [+1.0, +11.0]``."""
    return f"{signed_points(gain.mean)} points {points_range(gain.low, gain.high)}"
