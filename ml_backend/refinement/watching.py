"""The rule of a watched promotion: whether a version does worse in use than the one before it.

Overlaps are compared by video, those of tasks for which both versions proposed where there are enough of them. The
rule looks after every correction. Its limits were chosen by ``python -m benchmarks.refinement.watching`` so that
looking often costs few false alarms (our choice; the published method has no such step).
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ml_backend.refinement.points import points_range, signed_points

Values = NDArray[np.float64]


@dataclass(frozen=True)
class WatchRule:
    """The limits.

    Attributes:
        margin: A loss of overlap that is put up with, in [0, 1].
        certainty: A version is worse where it loses more than the margin with a higher probability.
        paired_certainty: The same where both versions proposed for the same tasks.
        kept: A proposal that overlaps what was accepted by as much counts as kept whole, with an overlap of 1. What
            is accepted begins from the new version's proposal, so that small differences favour it.
        videos: Fewest videos of each version.
        tasks: The watch ends after so many corrected tasks of the new version.
        prior: Videos that the prior of the spread counts as much as.
        spread: Prior standard deviation of overlaps between videos.
        paired_spread: The same of the difference of two overlaps on a video.
    """

    margin: float = 0.02
    certainty: float = 0.995
    paired_certainty: float = 0.988
    kept: float = 0.85
    videos: int = 15
    tasks: int = 200
    prior: float = 4.0
    spread: float = 0.4
    paired_spread: float = 0.45

    def limit(self, paired: bool) -> float:
        """The certainty that a comparison needs."""
        return self.paired_certainty if paired else self.certainty

    def credit(self, overlap: Values | float) -> Values:
        """What overlaps count."""
        return np.where(np.asarray(overlap) >= self.kept, 1.0, overlap)


RULE = WatchRule()


@dataclass(frozen=True)
class Observation:
    """What a version's proposal for a corrected task was worth.

    Attributes:
        correction: Number of the correction.
        video: Its video, whose parts count as one; the digest of its media where an earlier release noted it.
        shown: Whether the annotator began from this proposal; else another version's was shown.
        accepted: Whether it was accepted as it was.
        overlap: Mean IoU with what was accepted, in [0, 1].
    """

    correction: int
    video: str
    shown: bool
    accepted: bool
    overlap: float


@dataclass(frozen=True)
class Use:
    """How a version's proposals did, over the tasks for which annotators began from them.

    Attributes:
        tasks: Number of corrected objects.
        videos: Of so many videos.
        accepted: Share of the proposals that were accepted as they were, in [0, 1].
        overlap: Mean overlap with what was accepted, in [0, 1].
    """

    tasks: int
    videos: int
    accepted: float
    overlap: float


class WatchState(enum.StrEnum):
    """How a watch stands."""

    TOO_FEW = "too few tasks"
    WATCHED = "watched"
    WORSE = "worse"
    ENDED = "ended"


@dataclass(frozen=True)
class Difference:
    """New version less old version.

    Attributes:
        mean: Mean difference of the overlap.
        low: Lower end of its 95 % interval.
        high: Upper end.
        worse: Probability that the new version loses more than the margin.
        paired: Whether both proposed for the same tasks.
        videos: Of the new version.
        old_videos: Of the old version.
    """

    mean: float
    low: float
    high: float
    worse: float
    paired: bool
    videos: int
    old_videos: int

    def __str__(self) -> str:
        tasks = (
            f"{self.videos} videos that both proposed for"
            if self.paired
            else f"{self.videos} videos after and {self.old_videos} before"
        )
        return f"{signed_points(self.mean)} points {points_range(self.low, self.high)} on {tasks}"


@dataclass(frozen=True)
class Watch:
    """What is known of a promoted version in use.

    Attributes:
        state: How it stands.
        new: The version's own proposals; ``None`` where none was corrected yet.
        old: Those of the version before it.
        difference: Both compared; ``None`` with too few videos.
    """

    state: WatchState
    new: Use | None
    old: Use | None
    difference: Difference | None


def standard_errors_below(mean: Values | float, variance: Values | float, margin: float) -> Values | float:
    """By how many standard errors a difference lies below the margin, for any number of looks at once.

    Args:
        mean: Mean differences.
        variance: Of the means.
        margin: A loss that is put up with.
    """
    return (-margin - mean) / np.sqrt(variance)


def variance_of_mean(values: Values, prior: float, spread: float) -> Values:
    """Posterior variance of the mean over the last axis (V,), with a prior on the variance of a video.

    Few videos that happen to agree do not make a mean certain.
    """
    count = values.shape[-1]
    squares = ((values - values.mean(-1, keepdims=True)) ** 2).sum(-1)
    variance: Values = (squares + prior * spread**2) / (count - 1 + prior) / count
    return variance


def watch(new: Sequence[Observation], old: Sequence[Observation], rule: WatchRule = RULE) -> Watch:
    """Compare a promoted version with the one before it.

    Args:
        new: What is known of the new version's proposals.
        old: The same of the old version, for tasks of before and for the new version's own.
        rule: The limits.
    """
    mine = [one for one in new if one.shown]
    before = [one for one in old if one.shown]
    uses = _use(mine), _use(before)
    difference = _difference(mine, old, before, rule)
    if (
        difference is not None
        and len(mine) <= rule.tasks
        and difference.worse > rule.limit(difference.paired)
    ):
        return Watch(WatchState.WORSE, *uses, difference)
    if len(mine) > rule.tasks:
        return Watch(WatchState.ENDED, *uses, difference)
    return Watch(WatchState.TOO_FEW if difference is None else WatchState.WATCHED, *uses, difference)


def _use(shown: Sequence[Observation]) -> Use | None:
    if not shown:
        return None
    return Use(
        tasks=len(shown),
        videos=len({one.video for one in shown}),
        accepted=sum(one.accepted for one in shown) / len(shown),
        overlap=sum(one.overlap for one in shown) / len(shown),
    )


def _difference(
    mine: Sequence[Observation], old: Sequence[Observation], before: Sequence[Observation], rule: WatchRule
) -> Difference | None:
    credit = {one.correction: float(rule.credit(one.overlap)) for one in mine}
    theirs = {one.correction: float(rule.credit(one.overlap)) for one in old if not one.shown}
    both = credit.keys() & theirs.keys()
    pairs = _by_video({number: credit[number] - theirs[number] for number in both}, mine)
    if len(pairs) >= rule.videos:
        variance = variance_of_mean(pairs, rule.prior, rule.paired_spread)
        return _measured(pairs.mean(), float(variance), rule, paired=True, videos=(len(pairs), len(pairs)))
    ours = _by_video(credit, mine)
    others = _by_video({one.correction: float(rule.credit(one.overlap)) for one in before}, before)
    if min(len(ours), len(others)) < rule.videos:
        return None
    variance = variance_of_mean(ours, rule.prior, rule.spread) + variance_of_mean(
        others, rule.prior, rule.spread
    )
    return _measured(
        ours.mean() - others.mean(), float(variance), rule, paired=False, videos=(len(ours), len(others))
    )


def _measured(
    mean: float, variance: float, rule: WatchRule, *, paired: bool, videos: tuple[int, int]
) -> Difference:
    normal = NormalDist()
    half = normal.inv_cdf(0.975) * variance**0.5
    return Difference(
        mean=float(mean),
        low=float(mean - half),
        high=float(mean + half),
        worse=normal.cdf(float(standard_errors_below(mean, variance, rule.margin))),
        paired=paired,
        videos=videos[0],
        old_videos=videos[1],
    )


def _by_video(values: Mapping[int, float], observations: Sequence[Observation]) -> Values:
    """The mean of each video, (V,)."""
    videos: dict[str, list[float]] = defaultdict(list)
    for one in observations:
        if one.correction in values:
            videos[one.video].append(values[one.correction])
    return np.array([np.mean(found) for found in videos.values()])
