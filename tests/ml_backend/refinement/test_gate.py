"""The gate's decisions, with their reasons in words and numbers."""

from __future__ import annotations

import json

import pytest

from ml_backend.refinement.gate import Outcome, PairedScore, Scheme, judge
from steerseg.config import RefinementRecipe

RECIPE = RefinementRecipe(min_gain=0.01, confidence=0.9, max_regression=0.01)


def compared(gains: list[float], name: str = "v") -> list[PairedScore]:
    return [PairedScore(f"k{i}", f"{name}{i}", 0.5 + gain, 0.5) for i, gain in enumerate(gains)]


def outcome(held_out: list[PairedScore], regression: list[PairedScore] | None = None) -> tuple[Outcome, str]:
    judgement = judge(held_out, regression or [], RECIPE, Scheme.HELD_OUT)
    json.dumps(judgement.metrics.to_json())
    return judgement.outcome, judgement.reason


def test_a_clear_gain_without_loss_is_promoted() -> None:
    result, reason = outcome(compared([0.1, 0.2, 0.15, 0.12]), compared([0.0, 0.01, -0.01]))
    assert result is Outcome.PROMOTED
    assert "on 4 held-out videos: J&F 50.0 → 64.2" in reason
    assert "90% interval" in reason
    assert "on 3 replayed clips: J&F 50.0 → 50.0" in reason


@pytest.mark.parametrize(
    ("gains", "replayed", "reason"),
    [
        ([0.001, 0.002, 0.003, 0.001], [], "the gain is below 1.0 points"),
        ([-0.1, -0.2, -0.3, 0.0], [], "the gain is below 1.0 points"),
        ([0.5, -0.3, 0.4, -0.2], [], "the interval of the gain reaches 0.0"),
        (
            [0.1, 0.2, 0.15, 0.12],
            [-0.05, -0.02, 0.0],
            "what was known before is lost by more than 1.0 points",
        ),
    ],
)
def test_what_keeps_a_candidate_back_is_said(gains: list[float], replayed: list[float], reason: str) -> None:
    result, said = outcome(compared(gains), compared(replayed))
    assert result is Outcome.KEPT_BACK
    assert reason in said
    assert ("without a replay set" in said) == (not replayed)


def test_a_loss_that_may_be_chance_keeps_nothing_back() -> None:
    scattered = [0.0] * 9 + [-0.8, 0.3, 0.1]  # -0.033 in the mean, by one clip that turned out otherwise
    result, reason = outcome(compared([0.1, 0.2, 0.15, 0.12]), compared(scattered, name="replayed"))
    assert result is Outcome.PROMOTED
    assert "on 12 replayed clips: J&F 50.0 → 46.7, −3.3 points" in reason


def test_a_negative_least_gain_allows_for_a_loss() -> None:
    recipe = RefinementRecipe(min_gain=-0.1, confidence=0.9, max_regression=0.01)
    slight = judge(compared([0.01, -0.03, 0.02, -0.02]), [], recipe, Scheme.HELD_OUT)
    assert slight.outcome is Outcome.PROMOTED
    assert slight.reason.startswith("as good as asked for on 4 held-out videos")
    unsure = judge(compared([0.3, -0.3, 0.2, -0.4]), [], recipe, Scheme.HELD_OUT)
    assert unsure.outcome is Outcome.KEPT_BACK
    assert "the interval of the gain reaches −10.0." in unsure.reason


def test_one_video_is_not_enough_whatever_it_shows() -> None:
    assert outcome(compared([0.5]))[0] is Outcome.NOT_ENOUGH_DATA
    assert outcome([])[0] is Outcome.NOT_ENOUGH_DATA
    same = [PairedScore(f"k{i}", "one video", 0.9, 0.5) for i in range(5)]
    result, reason = outcome(same)
    assert result is Outcome.NOT_ENOUGH_DATA
    assert "1 held-out videos could be compared, at least 2 are needed" in reason


def test_accepted_proposals_and_corrections_count_the_same() -> None:
    """Accepted ones can hardly get better, corrected ones hardly worse: any other weights would favour one side."""
    accepted = compared([-0.02] * 4, name="accepted")
    corrected = compared([0.2, 0.15, 0.25, 0.2])
    judgement = judge([*accepted, *corrected], [], RECIPE, Scheme.CROSS_VALIDATION)
    assert judgement.outcome is Outcome.PROMOTED
    assert judgement.metrics.held_out is not None
    assert judgement.metrics.held_out.gain.mean == pytest.approx((0.8 - 0.08) / 8)
    assert "by cross-validation" in judgement.reason


def test_a_prior_draws_what_few_videos_show_towards_none() -> None:
    few = [0.3, -0.02, 0.2, 0.0, 0.25, 0.02]
    seen = judge(compared(few), [], RECIPE, Scheme.CROSS_VALIDATION)
    assert seen.outcome is Outcome.PROMOTED
    drawn = judge(compared(few), [], RECIPE, Scheme.CROSS_VALIDATION, prior=0.05)
    assert drawn.outcome is Outcome.KEPT_BACK
    assert "is expected in use" in drawn.reason
    assert seen.metrics.held_out is not None
    assert drawn.metrics.expected is not None
    assert 0 < drawn.metrics.expected.mean < seen.metrics.held_out.gain.mean
    many = judge(compared(few * 20), [], RECIPE, Scheme.CROSS_VALIDATION, prior=0.05)
    assert many.outcome is Outcome.PROMOTED, "many videos outweigh the prior"
    json.dumps(many.metrics.to_json())
