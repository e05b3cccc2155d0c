"""The gate: whether a candidate replaces the champion, with the reason in text and numbers."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from ml_backend.refinement.points import describe_gain, points, signed_points
from steerseg.config import RefinementRecipe
from steerseg.statistics import Interval, bootstrap_mean


class Scheme(enum.StrEnum):
    """How a candidate is judged."""

    HELD_OUT = "held-out videos"
    CROSS_VALIDATION = "cross-validation"


class Outcome(enum.StrEnum):
    """How a refinement ended."""

    PROMOTED = "promoted"
    KEPT_BACK = "kept back"
    NOT_ENOUGH_DATA = "not enough data"


@dataclass(frozen=True)
class PairedScore:
    """J&F in [0, 1] of both on one example.

    Attributes:
        key: The example.
        video: Its video, whose parts count as one; the bootstrap draws videos.
        candidate: J&F of the candidate, or of the fold's training that stands for it.
        champion: J&F of the champion.
    """

    key: str
    video: str
    candidate: float
    champion: float


@dataclass(frozen=True)
class Comparison:
    """Means over examples, and the gain paired by example with its interval over videos.

    All examples count the same. Training gives a corrected proposal more weight than an accepted one; a comparison
    must not, since the former can hardly get worse and the latter can hardly get better.

    Attributes:
        videos: Number of videos.
        candidate: Mean J&F of the candidate.
        champion: Mean J&F of the champion.
        gain: Mean difference.
    """

    videos: int
    candidate: float
    champion: float
    gain: Interval

    def __str__(self) -> str:
        return f"J&F {points(self.champion)} → {points(self.candidate)}, {describe_gain(self.gain)}"


class GateMetrics(BaseModel):
    """The numbers behind a decision, as the database and exported versions keep them.

    Attributes:
        scheme: How the held-out examples were chosen.
        held_out: Both on corrections that the compared training has not seen; ``None`` without any.
        expected: The gain that is expected in use, where a prior draws it towards none.
        regression: Both on the replay set's held-out part; ``None`` without any.
        examples: The held-out examples one by one.
        replayed: The replayed examples one by one.
    """

    model_config = ConfigDict(frozen=True)

    scheme: Scheme | None = None
    held_out: Comparison | None = None
    expected: Interval | None = None
    regression: Comparison | None = None
    examples: tuple[PairedScore, ...] = ()
    replayed: tuple[PairedScore, ...] = ()

    @model_serializer(mode="wrap")
    def _measured(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what was measured: a refinement that ended early measured nothing."""
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return self.model_dump(mode="json")

    def summary(self) -> GateMetrics:
        """The same without the examples one by one."""
        kept = {"scheme", "held_out", "expected", "regression"} & self.model_fields_set
        return GateMetrics.model_validate({name: getattr(self, name) for name in kept})


@dataclass(frozen=True)
class Judgement:
    """The gate's decision.

    Attributes:
        outcome: How the refinement ends.
        reason: Why, in text and numbers.
        metrics: The numbers.
    """

    outcome: Outcome
    reason: str
    metrics: GateMetrics


def compare(examples: Sequence[PairedScore], level: float) -> Comparison | None:
    """Compare candidate and champion; ``None`` without examples."""
    if not examples:
        return None
    candidate = np.array([example.candidate for example in examples])
    champion = np.array([example.champion for example in examples])
    videos = [example.video for example in examples]
    return Comparison(
        videos=len(set(videos)),
        candidate=float(np.mean(candidate)),
        champion=float(np.mean(champion)),
        gain=bootstrap_mean(candidate - champion, videos, level=level),
    )


def drawn_to_none(gain: Interval, prior: float, level: float) -> Interval:
    """The gain that is expected in use: a normal prior around 0, and what was seen with the deviation of its interval.

    Args:
        gain: What was seen.
        prior: Deviation of the prior, in J&F.
        level: Coverage of both intervals.
    """
    reach = NormalDist().inv_cdf((1 + level) / 2)
    noise = ((gain.high - gain.low) / (2 * reach)) ** 2
    share = prior**2 / (prior**2 + noise)
    half = reach * math.sqrt(share * noise)
    return Interval(gain.mean * share, gain.mean * share - half, gain.mean * share + half, gain.count)


def judge(
    held_out: Sequence[PairedScore],
    regression: Sequence[PairedScore],
    recipe: RefinementRecipe,
    scheme: Scheme,
    prior: float | None = None,
) -> Judgement:
    """Decide about a candidate.

    It is promoted where it gains at least ``recipe.min_gain`` on held-out videos, the interval of the gain lies
    above 0, and it does not lose more than ``recipe.max_regression`` on the replay set with an interval below 0 (our
    choice): of a dozen clips a few that turn out otherwise are more than that by chance. With a negative
    ``min_gain``, which allows for a loss, the interval has to lie above that.

    Args:
        held_out: J&F of both on corrections that the compared training has not seen.
        regression: J&F of both on the replay set's held-out part; may be empty.
        recipe: The limits.
        scheme: How the held-out examples were chosen.
        prior: Deviation in J&F of what such candidates gain in use, around 0, before any is tried; the gain and its
            interval are drawn towards 0 by it. ``None`` for what was seen alone.
    """
    ours = compare(held_out, recipe.confidence)
    old = compare(regression, recipe.confidence)
    expected = None if ours is None or prior is None else drawn_to_none(ours.gain, prior, recipe.confidence)
    metrics = GateMetrics(
        scheme=scheme,
        held_out=ours,
        expected=expected,
        regression=old,
        examples=tuple(held_out),
        replayed=tuple(regression),
    )
    if ours is None or ours.videos < 2:
        found = 0 if ours is None else ours.videos
        reason = f"{found} held-out videos could be compared, at least 2 are needed"
        return Judgement(Outcome.NOT_ENOUGH_DATA, reason, metrics)
    name = "held-out videos" if scheme is Scheme.HELD_OUT else "videos by cross-validation"
    gain = f"on {ours.videos} {name}: {ours} ({recipe.confidence:.0%} interval)"
    if expected is not None:
        gain += f", of which {describe_gain(expected)} is expected in use"
    loss = "without a replay set" if old is None else f"on {old.videos} replayed clips: {old}"
    faults = []
    decisive = expected or ours.gain
    if decisive.mean < recipe.min_gain:
        faults.append(f"the gain is below {points(recipe.min_gain)} points")
    elif decisive.low <= (floor := min(0.0, recipe.min_gain)):
        chance = ", so that it may be chance" if floor == 0 else ""
        faults.append(f"the interval of the gain reaches {signed_points(floor)}{chance}")
    if old is not None and old.gain.mean < -recipe.max_regression and old.gain.high < 0:
        faults.append(f"what was known before is lost by more than {points(recipe.max_regression)} points")
    if faults:
        return Judgement(Outcome.KEPT_BACK, f"{' and '.join(faults)}. {upper_first(gain)}; {loss}", metrics)
    verdict = "better" if decisive.low > 0 else "as good as asked for"
    return Judgement(Outcome.PROMOTED, f"{verdict} {gain}; {loss}", metrics)


def upper_first(text: str) -> str:
    """A text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]
