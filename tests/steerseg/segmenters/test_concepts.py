"""SAM 3's concepts against the library's own session."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Sam3VideoModel, Sam3VideoProcessor

from steerseg.errors import Cancelled, ModelError
from steerseg.segmenters.concepts import ConceptSegmenter, ConceptTrack
from tests.support.tiny_concepts import save_tiny_sam3

PHRASES = ("red car", "dog")
Outputs = Sequence[Mapping[int, torch.Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam3")
    save_tiny_sam3(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> ConceptSegmenter:
    return ConceptSegmenter.from_pretrained(folder)


def film(frames: int = 5) -> np.ndarray:
    """Two rectangles that pass each other; the scene changes in the middle."""
    pictures = np.full((frames, 45, 70, 3), 40, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        picture[10:25, 5 + 5 * index : 20 + 5 * index] = (230, 40, 30)
        picture[28:40, 50 - 5 * index : 62 - 5 * index] = (30, 60, 240)
        if index >= frames // 2:
            picture[:] = 255 - picture[::-1]
    return pictures


@pytest.fixture(scope="module")
def expected(folder: Path) -> Outputs:
    """The masks by object of each frame, as the library's own loop over a session yields them."""
    model = Sam3VideoModel.from_pretrained(folder)
    processor = Sam3VideoProcessor.from_pretrained(folder)
    session = processor.init_video_session(video=film(), dtype=torch.float32)
    processor.add_text_prompt(session, list(PHRASES))
    outputs = [output.obj_id_to_mask for output in model.propagate_in_video_iterator(session)]
    assert not session.hotstart_removed_obj_ids
    return outputs


def keys_of(expected: Outputs) -> list[int]:
    return sorted({key for masks in expected for key in masks})


def assert_same_object(track: ConceptTrack, key: int, expected: Outputs) -> None:
    for index, masks in enumerate(expected):
        if key in masks:
            assert (track.logits[index] - masks[key][0]).abs().max() < 1e-5
            assert track.presence[index] > 0
        else:
            assert not (track.logits[index] > 0).any()
            assert track.presence[index] == 0


def test_tracks_are_those_of_the_librarys_own_session(segmenter: ConceptSegmenter, expected: Outputs) -> None:
    done: list[float] = []
    tracks = segmenter.track(film(), PHRASES, done.append)
    assert {track.phrase for track in tracks} == set(PHRASES)
    assert any(key not in expected[0] for key in keys_of(expected))  # some come later
    for key, track in zip(keys_of(expected), tracks, strict=True):
        assert_same_object(track, key, expected)
    assert done == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_dropped_objects_leave_the_others_their_masks(
    segmenter: ConceptSegmenter, expected: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter.model, "hotstart_unmatch_thresh", 4)
    tracks = segmenter.track(film(), PHRASES)
    kept = [key for key in keys_of(expected) if key not in expected[0]]  # the last frame drops the first ones
    assert kept
    for key, track in zip(kept, tracks, strict=True):
        assert_same_object(track, key, expected)


def test_nothing_is_found_where_nothing_scores(
    segmenter: ConceptSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter.model, "score_threshold_detection", 0.99)
    assert segmenter.track(film(), PHRASES) == []


def test_tracking_stops_when_it_is_cancelled(segmenter: ConceptSegmenter) -> None:
    def stop(fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        segmenter.track(film(), PHRASES, stop)


def test_few_objects_are_kept(segmenter: ConceptSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter.model, "max_num_objects", 2)
    assert len(segmenter.track(film(2), PHRASES)) == 2


def test_half_precision_runs(folder: Path) -> None:
    segmenter = ConceptSegmenter.from_pretrained(folder, dtype=torch.bfloat16)
    assert segmenter.model.dtype == torch.bfloat16
    tracks = segmenter.track(film(3), PHRASES)
    assert all(track.logits.dtype == torch.float32 for track in tracks)


def test_it_is_frozen_and_reads_short_phrases(segmenter: ConceptSegmenter) -> None:
    assert segmenter.version.startswith("sam3")
    assert not any(parameter.requires_grad for parameter in segmenter.model.parameters())
    assert segmenter.can_read("red car")
    assert not segmenter.can_read("car " * 20)


def test_other_folders_are_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be loaded"):
        ConceptSegmenter.from_pretrained(tmp_path)
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*", "processor*"))
    with pytest.raises(ModelError, match="processor"):
        ConceptSegmenter.from_pretrained(tmp_path / "model")
