"""What the benchmark of meaning asks about."""

import numpy as np

from benchmarks.meaning.confidence import ConfidenceRow, describe_confidence, fit_confidence
from benchmarks.meaning.late import LateRow, describe_late
from benchmarks.meaning.motion import MotionRow, describe_motion
from benchmarks.meaning.reasoning import ReasoningRow, describe_reasoning
from benchmarks.meaning.visits import KEYFRAMES, VISITS, come_and_go, visible_windows, visits_manifest
from benchmarks.meaning.wordings import clips_of, clips_read_otherwise, load_wordings
from steerseg.demo.absence import ABSENT_KINDS
from steerseg.demo.dataset import ENTROPY, load_manifest
from steerseg.demo.scene import visible_fraction
from steerseg.demo.sprites import load_catalogue
from steerseg.demo.world import sample_scene
from steerseg.presence.confidence import ConfidenceSignals
from steerseg.video import keyframe_indices


def test_the_free_wordings_are_of_clips_of_their_split() -> None:
    wordings = load_wordings("measured")
    manifest = load_manifest(wordings.split)
    chosen = clips_of(wordings, manifest, len(manifest.clips))
    assert {entry.video for entry in chosen} == {one.video for one in wordings.wordings}
    assert len(clips_of(wordings, manifest, 3)) == 3


def test_readings_are_of_those_expressions_alone_that_plain_wording_changes() -> None:
    chosen = clips_read_otherwise(load_manifest("test"), 160)
    texts = [expression.text for entry in chosen for expression in entry.expressions]
    assert len(texts) == 103
    assert all(entry.expressions for entry in chosen)


def test_visitors_are_in_the_picture_when_their_kind_says() -> None:
    spacing = keyframe_indices(120, KEYFRAMES)
    for visit in VISITS:
        windows = visible_windows(visit, 120, np.random.default_rng(0))
        seen = [k for k in spacing if any(start <= k < end for start, end in windows)]
        expected = {"between": 0, "never": 0, "back between": 2, "left": 2, "always": KEYFRAMES}
        if visit in expected:
            assert len(seen) == expected[visit], visit
        else:
            assert 0 < len(seen) < KEYFRAMES, visit


def test_a_target_is_out_of_the_picture_outside_its_windows_and_others_stay_where_they_are() -> None:
    manifest = visits_manifest("develop", len(VISITS))
    entry = manifest.clips[VISITS.index("between")]
    (expression,) = entry.expressions
    scene = sample_scene(np.random.default_rng((ENTROPY, entry.seed)), manifest.world)
    target = expression.targets[0]
    moved = come_and_go(scene, target, [(40, 60)])
    visible = visible_fraction(moved, load_catalogue(scene.styles))[target] > 0
    assert not visible[:40].any()
    assert not visible[60:].any()
    assert visible[45:55].any()
    others = [i for i in range(scene.num_objects) if i != target]
    assert np.array_equal(moved.centre[others], scene.centre[others])


def test_what_is_absent_has_no_target_and_its_kinds_take_turns() -> None:
    manifest = visits_manifest("absent", 3)
    assert [clip.expressions[0].kind for clip in manifest.clips] == list(ABSENT_KINDS[:3])
    assert all(not clip.expressions[0].targets for clip in manifest.clips)


def test_the_table_of_reasoning_has_the_paired_gain_and_what_the_second_answer_holds() -> None:
    row = ReasoningRow(
        video="a", kind="explicit", text="the dog", alike=False, one=0.5, two=0.75, attributes=("dog",),
        answer=("pineapple",), certainty=0.2, added=(), one_seconds=3.0, two_seconds=4.0,
    )  # fmt: skip
    other = row.model_copy(update={"video": "b", "two": 0.5, "answer": (), "certainty": 0.0})
    lines = list(describe_reasoning([row, other]))
    assert "| **all** | 2 | 0.500 [0.500, 0.500] | 0.625" in lines[2]
    assert "| 0.125 [0.000, 0.250] | 1 |" in lines[2]
    assert "has phrases for 1; its first has a median probability of 0.20." in "\n".join(lines)
    assert lines[-1] == "CPU seconds of a cold answer, median: 3.0 with one step, 4.0 with two."


def test_the_table_of_late_targets_counts_what_is_shown_and_what_it_costs() -> None:
    row = LateRow(
        video="a", visit="between", text="the dog", frames=96, before=0.8, after=0.9, before_visible=0.0,
        after_visible=0.5, before_shown=False, after_shown=True, before_presence=0.1, between_presence=0.9,
        between=True, returned=False, seconds=10.0, between_seconds=4.0, returns_seconds=0.0,
    )  # fmt: skip
    changes = {"visit": "never", "before": 1.0, "after": 1.0, "before_visible": None, "after_visible": None}
    never = row.model_copy(update={**changes, "video": "b", "after_shown": False, "between": False})
    lines = list(describe_late([row, never]))
    assert "| **all** | 2 | 0 → 1 | 0.900" in lines[2]
    assert lines[3].endswith("| 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] | 1 |")
    assert lines[4].endswith("|  |  | 0 |")
    assert "| between the first | 2 | 4.0 | 10.0 | 1 |" in lines
    assert "| where the tracklet shows nothing | 0 | 0.0 | 0.0 | 0 |" in lines


def test_the_table_of_motions_has_the_paired_gain_by_motion() -> None:
    row = MotionRow(
        video="a", kind="motion", text="the dog that runs left", alike=True, motions=("left",), without=0.0,
        shown=0.75, best_without=0.25, best=0.75,
    )  # fmt: skip
    other = row.model_copy(update={"video": "b", "alike": False, "motions": ("still",), "without": 0.75})
    lines = list(describe_motion([row, other]))
    assert lines[2].startswith("| all | 2 | 0.375 [0.000, 0.750] | 0.750")
    assert lines[3].startswith("| with a namesake | 1 | 0.000")
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| left", "| still"]


def confidence_rows() -> list[ConfidenceRow]:
    """Forty expressions, right where the rank score is high; its other signals say nothing."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        score = float(rng.uniform(0, 1))
        signals = ConfidenceSignals(score, *rng.uniform(0, 1, 4).tolist())
        right = score + rng.normal(0, 0.1) > 0.5
        rows.append(
            ConfidenceRow(
                video=f"clip-{number // 2}", kind="explicit", text="the dog", alike=False, score=score,
                presence=0.5, signals=signals, j=0.9 if right else 0.1,
            )
        )  # fmt: skip
    return [*rows, rows[0].model_copy(update={"signals": None, "score": -1.0, "j": 0.0})]


def test_a_confidence_is_fitted_to_what_is_right() -> None:
    rows = confidence_rows()
    calibration = fit_confidence(rows)
    assert max(calibration.weights, key=lambda name: abs(calibration.weights[name])) == "score"
    sure, unsure = (
        calibration.probability(ConfidenceSignals(score, 0.5, 0.5, 0.5, 0.5)) for score in (0.9, 0.1)
    )
    assert sure > 0.8 > 0.2 > unsure
    for given in (calibration, None):  # fitted before, or with each clip left out
        lines = list(describe_confidence(rows, given))
        (measured,) = (line for line in lines if line.startswith("| confidence | 0."))
        assert float(measured.split()[3]) > 0.85
        assert lines[-1].startswith("| 0.")
