from pathlib import Path

import numpy as np
import pytest

from steerseg.demo.dataset import Manifest, load_manifest, write_split
from steerseg.errors import ConfigError
from steerseg.evaluation import (
    Prediction,
    Sample,
    evaluate_method,
    fingerprint,
    mean_of,
    paired_gain,
    read_ref_youtube_vos,
    table,
)
from steerseg.video import Video


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    root = tmp_path_factory.mktemp("sprites-ref")
    whole = load_manifest("test")
    write_split(Manifest("test", whole.about, whole.world, whole.phrasing, whole.clips[:2]), root)
    return read_ref_youtube_vos(root, "test")


def truth(video: Video, sample: Sample) -> Prediction:
    return Prediction(sample.masks(), ("seen",), 0.9)


def nothing(video: Video, sample: Sample) -> Prediction:
    return Prediction(np.zeros(video.frames.shape[:3], dtype=bool))


def test_true_masks_score_one_and_nothing_scores_by_absence(samples: list[Sample]) -> None:
    assert len(samples) == 4
    perfect = evaluate_method(truth, samples)
    assert [result.jf for result in perfect] == [1.0] * 4
    assert [result.id for result in perfect] == [sample.id for sample in samples]
    absent = evaluate_method(nothing, samples)
    for result, sample in zip(absent, samples, strict=True):
        assert result.j == pytest.approx((~sample.masks().any(axis=(1, 2))).mean())
    gain = paired_gain(perfect, absent)
    assert gain.mean == pytest.approx(1 - mean_of(absent).mean)
    assert gain.low > 0


def test_an_interrupted_run_goes_on_where_it_stopped(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    calls: list[str] = []

    def counted(video: Video, sample: Sample) -> Prediction:
        calls.append(sample.id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return truth(video, sample)

    with pytest.raises(KeyboardInterrupt):
        evaluate_method(counted, samples, run={"preset": "a"}, results=path)
    with path.open("a") as file:
        file.write('{"id": "half a li')
    results = evaluate_method(counted, samples, run={"preset": "a"}, results=path)
    assert len(results) == 4
    assert calls == [samples[0].id, samples[1].id, samples[2].id, samples[2].id, samples[3].id]
    assert evaluate_method(counted, samples, run={"preset": "a"}, results=path) == results
    with pytest.raises(ConfigError, match="other settings"):
        evaluate_method(counted, samples, run={"preset": "b"}, results=path)


def test_no_samples_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no samples"):
        evaluate_method(truth, [])


def test_the_table_has_a_row_for_every_kind(samples: list[Sample]) -> None:
    text = table(evaluate_method(truth, samples))
    rows = text.splitlines()
    assert rows[2].startswith("| all | 4 | 1.000 [1.000, 1.000] | 1.000 | 1.000 |")
    for kind in {sample.kind for sample in samples}:
        assert any(row.startswith(f"| {kind} |") for row in rows)


def test_a_paired_gain_refuses_different_samples(samples: list[Sample]) -> None:
    results = evaluate_method(truth, samples)
    with pytest.raises(ValueError, match="same samples"):
        paired_gain(results, results[:2])


def test_a_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    assert fingerprint("some/hub-id") == fingerprint(tmp_path) == ""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * 100)
    before = fingerprint(tmp_path)
    weights.write_bytes(b"a" * 99 + b"b")
    assert before != fingerprint(tmp_path) != ""
