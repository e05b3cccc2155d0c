import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from steerseg.evaluation import bootstrap_mean, boundary_f, region_iou, score

VOS_BENCHMARK = """
import json, sys
from vos_benchmark.benchmark import benchmark
_, _, _, (objects,) = benchmark(
    [sys.argv[1]], [sys.argv[2]], num_processes=1, verbose=False, skip_first_and_last=False
)
print(json.dumps({video: [float(iou[1]), float(boundary[1])] for video, (iou, boundary) in objects.items()}))
"""


def blobs(rng: np.random.Generator, frames: int, height: int, width: int) -> NDArray[np.bool_]:
    """Smooth random masks that move a little from frame to frame."""
    noise = cv2.GaussianBlur(rng.normal(size=(height + frames, width)).astype(np.float32), (0, 0), 7)
    return np.stack([noise[t : t + height] > 0.02 for t in range(frames)])


def save(root: Path, video: str, masks: NDArray[np.bool_]) -> None:
    folder = root / video
    folder.mkdir(parents=True)
    for t, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"{t:05d}.png")


def test_scores_agree_with_vos_benchmark(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ours = []
    for number, (height, width) in enumerate([(90, 160), (120, 120), (135, 241), (240, 135)]):
        truth = blobs(rng, 6, height, width)
        predicted = np.roll(truth, (number, 2), axis=(1, 2)) ^ (rng.random(truth.shape) < 0.002)
        if number == 2:
            predicted[2], truth[4] = False, False
        if number == 3:
            predicted[3], truth[3] = False, False
        save(tmp_path / "truth", f"v{number}", truth)
        save(tmp_path / "predicted", f"v{number}", predicted)
        ours.append(score(predicted, truth))
    # In a process of its own: it forks, which can hang beside the threads of the libraries loaded here.
    run = subprocess.run(
        [sys.executable, "-c", VOS_BENCHMARK, str(tmp_path / "truth"), str(tmp_path / "predicted")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    theirs = json.loads(run.stdout.splitlines()[-1])
    for number, scores in enumerate(ours):
        iou, boundary = theirs[f"v{number}"]
        assert scores.j == pytest.approx(iou / 100, abs=1e-4)
        assert scores.f == pytest.approx(boundary / 100, abs=1e-4)
        assert scores.jf == pytest.approx((iou + boundary) / 200, abs=1e-4)


def test_perfect_missing_and_empty_masks() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 10:30] = True
    empty = np.zeros_like(mask)
    assert region_iou(mask, mask) == boundary_f(mask, mask) == 1.0
    assert region_iou(empty, mask) == boundary_f(empty, mask) == 0.0
    assert region_iou(mask, empty) == boundary_f(mask, empty) == 0.0
    assert region_iou(empty, empty) == boundary_f(empty, empty) == 1.0


def test_void_pixels_count_for_nothing() -> None:
    """As in davis2017-evaluation: they are taken out of both masks before anything is counted."""
    rng = np.random.default_rng(2)
    truth, predicted = blobs(rng, 4, 90, 160), blobs(rng, 4, 90, 160)
    void = np.zeros_like(truth)
    void[:, 20:60, 40:80] = True
    void[3] = True
    scores = score(predicted, truth, void)
    noisy = np.where(void, rng.random(truth.shape) < 0.5, predicted)
    assert score(noisy, truth, void) == scores
    assert score(predicted & ~void, truth & ~void) == scores
    expected = []
    for one, other, left_out in zip(predicted, truth, void, strict=True):
        union = ((one | other) & ~left_out).sum()
        expected.append(((one & other) & ~left_out).sum() / union if union else 1.0)
    assert scores.j == pytest.approx(np.mean(expected))
    assert expected[3] == 1.0
    assert score(predicted, truth, np.zeros_like(truth)) == score(predicted, truth) != scores
    with pytest.raises(ValueError, match="must agree"):
        score(predicted, truth, void[:2])


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="must agree"):
        score(np.zeros((2, 4, 4), dtype=bool), np.zeros((3, 4, 4), dtype=bool))


def test_the_interval_resamples_clips() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    by_clip = bootstrap_mean(values, ["a", "a", "a", "b", "b", "b"])
    apart = bootstrap_mean(values, list("abcdef"))
    assert by_clip.mean == apart.mean == 0.5
    assert (by_clip.low, by_clip.high) == (0.0, 1.0)  # both clips may be the same one
    assert apart.high - apart.low < 1.0
    assert by_clip == bootstrap_mean(values, ["a", "a", "a", "b", "b", "b"])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean(np.array([]), [])


def test_weighted_values_count_as_if_they_came_more_often() -> None:
    values, clips = np.array([0.1, 0.5, 0.9]), ["a", "b", "c"]
    weighted = bootstrap_mean(values, clips, weights=np.array([1.0, 2.0, 1.0]))
    assert weighted.mean == pytest.approx(0.5)
    assert bootstrap_mean(values, clips, weights=np.full(3, 0.25)) == bootstrap_mean(values, clips)
    lopsided = bootstrap_mean(values, clips, weights=np.array([0.01, 0.01, 1.0]))
    assert lopsided.mean > 0.88
