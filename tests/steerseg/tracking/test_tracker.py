"""The tracker over a small SAM 2 with random weights, saved and loaded in the layouts of real ones."""

from __future__ import annotations

import copy
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sam2
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

from steerseg.config import PipelineConfig, SegmenterConfig
from steerseg.demo.sam2 import build_sam2, model_config, save_sam2
from steerseg.errors import Cancelled, ModelError
from steerseg.masks import encode_rle
from steerseg.points import PointPrompt
from steerseg.segmenters import frozen
from steerseg.segmenters.pixels import preprocess
from steerseg.segmenters.sam2 import Sam2
from steerseg.segmenters.sam2_step import TrackingStep
from steerseg.tracking import Candidate, EncodedVideo, Prompt, Tracker
from steerseg.tracking.packed_masks import RefilledTrack
from steerseg.video import Video, video_from_frames
from tests.conftest import SMALL_SAM2
from tests.support.tiny_sam2 import make_heard

CONFIG = PipelineConfig(duplicate_iou=0.999, max_candidates=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    model = build_sam2(SMALL_SAM2)
    with torch.no_grad():
        make_heard(model)
    path = tmp_path_factory.mktemp("sam2")
    save_sam2(model.state_dict(), SMALL_SAM2, path)
    return path


@pytest.fixture
def tracker(folder: Path) -> Tracker:
    return Tracker.from_pretrained(folder)


def moving_square(frames: int = 9, height: int = 45, width: int = 70) -> Video:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 90, (frames, height, width, 3), dtype=np.uint8)
    for t in range(frames):
        pictures[t, 10:30, 5 + 4 * t : 25 + 4 * t] = (220, 120, 40)
    return video_from_frames(pictures, fps=8.0)


def point(frame: int, x: float, y: float, value: float = 0.9) -> PointPrompt:
    return PointPrompt(frame=frame, x=x, y=y, value=value)


POINTS = [point(0, 0.1, 0.2), point(4, 0.5, 0.5), point(4, 0.9, 0.8), point(8, 0.3, 0.9)]


def started(tracker: Tracker, encoded: EncodedVideo) -> list[Candidate]:
    return [tracker.start(encoded, [Prompt(p.frame, points=((p.x, p.y),), labels=(True,))]) for p in POINTS]


def count_encodings(tracker: Tracker) -> list[int]:
    calls: list[int] = []
    forward = tracker.segmenter.model.forward_image

    def counted(pixels: torch.Tensor) -> Any:
        calls.append(len(pixels))
        return forward(pixels)

    tracker.segmenter.model.forward_image = counted
    return calls


def test_objects_start_together_as_they_start_alone(tracker: Tracker) -> None:
    """Clicks, boxes and masks in any order, on any frames."""
    encoded = tracker.open(moving_square())
    mask = np.zeros((45, 70), dtype=bool)
    mask[10:30, 5:25] = True
    prompts = [
        Prompt(4, ((0.5, 0.5),), (True,)),
        Prompt(0, mask=mask),
        Prompt(4, box=(0.2, 0.2, 0.3, 0.4)),
        Prompt(7, ((0.3, 0.2),), (True,)),
        Prompt(0, ((0.1, 0.2), (0.9, 0.9)), (True, False)),
        Prompt(0, ((0.1, 0.2),), (True,), earlier=mask),
    ]
    together = tracker.start_each(encoded, prompts)
    for prompt, given in zip(prompts, together, strict=True):
        alone = tracker.start(encoded, [prompt])
        assert given.prompt == alone.prompt
        assert (given.first_frame, given.predicted_iou) == (
            alone.first_frame,
            pytest.approx(alone.predicted_iou),
        )
        for part in ("logits", "pointer", "presence", "spatial"):
            one, other = (getattr(each.memories[prompt.frame], part) for each in (given, alone))
            assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)
    assert tracker.start_each(encoded, []) == []
    with pytest.raises(ValueError, match="frames 0 to 8"):
        tracker.start_each(encoded, [Prompt(9, ((0.1, 0.1),), (True,))])


def test_a_batch_of_candidates_equals_one_by_one(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    candidates = started(tracker, encoded)
    together = tracker.propagate(encoded, candidates)
    assert together.logits.shape == (4, 9, 16, 16)
    for i, candidate in enumerate(candidates):
        alone = tracker.propagate(encoded, [candidate])
        assert torch.allclose(together.logits[i], alone.logits[0], atol=1e-4)
        assert np.allclose(together.frame_scores[i], alone.frame_scores[0], atol=1e-4)
    # The comparison means something only if the candidates differ.
    assert not torch.allclose(together.logits[0], together.logits[1], atol=1e-2)


@pytest.fixture(scope="module")
def first_generation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM 2 as it was before 2.1: no encoding of time at object pointers, none of absence in the memory."""
    config = model_config(SMALL_SAM2)
    config["model"] |= {
        "no_obj_embed_spatial": False,
        "add_tpos_enc_to_obj_ptrs": False,
        "proj_tpos_enc_in_obj_ptrs": False,
        "use_signed_tpos_enc_to_obj_ptrs": False,
    }
    torch.manual_seed(7)
    model = instantiate(OmegaConf.create(config["model"]))
    assert model.no_obj_embed_spatial is None
    with torch.no_grad():
        make_heard(model)
    path = tmp_path_factory.mktemp("sam2-first")
    OmegaConf.save(OmegaConf.create(config), path / "config.yaml")
    torch.save({"model": model.state_dict()}, path / "model.pt")
    return path


@pytest.mark.parametrize("generation", ["folder", "first_generation"])
def test_the_driver_gives_what_the_stock_predictor_gives(
    generation: str, request: pytest.FixtureRequest
) -> None:
    """One click in the middle, tracked to both ends by sam2's own predictor over the same pictures."""
    tracker = Tracker.from_pretrained(request.getfixturevalue(generation))
    video = moving_square()
    encoded = tracker.open(video)
    candidate = tracker.start(encoded, [Prompt(4, points=((0.5, 0.5),), labels=(True,))])
    ours = tracker.propagate(encoded, [candidate]).logits[0]

    stock = copy.deepcopy(tracker.segmenter.model)
    images = preprocess(torch.from_numpy(video.frames), SMALL_SAM2.image_size)
    state: dict[str, Any] = {
        "images": images,
        "num_frames": len(images),
        "device": torch.device("cpu"),
        "storage_device": torch.device("cpu"),
        "cached_features": {},
        "constants": {},
    }
    side = SMALL_SAM2.image_size
    clicks = {
        "point_coords": torch.tensor([[[0.5 * side - 0.5, 0.5 * side - 0.5]]]),
        "point_labels": torch.ones(1, 1, dtype=torch.int32),
    }
    expected: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        for order in (range(4, 9), range(4, -1, -1)):
            bank: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
            for frame in order:
                first = frame == 4
                output, logits = stock._run_single_frame_inference(
                    inference_state=state,
                    output_dict=bank,
                    frame_idx=frame,
                    batch_size=1,
                    is_init_cond_frame=first,
                    point_inputs=clicks if first else None,
                    mask_inputs=None,
                    reverse=order.step < 0,
                    run_mem_encoder=True,
                )
                bank["cond_frame_outputs" if first else "non_cond_frame_outputs"][frame] = output
                expected[frame] = logits[0, 0]
    for frame in range(9):
        # The stock predictor keeps its memory in bfloat16.
        assert torch.allclose(ours[frame], expected[frame], atol=0.02, rtol=0.02), frame


def test_backward_tracking_mirrors_forward_tracking(tracker: Tracker) -> None:
    video = moving_square()
    mirrored = video_from_frames(video.frames[::-1].copy(), fps=8.0)
    forward, backward = tracker.open(video), tracker.open(mirrored)
    click = {"points": ((0.3, 0.5),), "labels": (True,)}
    onwards = tracker.propagate(forward, [tracker.start(forward, [Prompt(0, **click)])])
    back = tracker.propagate(backward, [tracker.start(backward, [Prompt(8, **click)])])
    assert torch.allclose(onwards.logits[0], back.logits[0].flip(0), atol=1e-4)


def test_every_frame_is_encoded_once(tracker: Tracker) -> None:
    calls = count_encodings(tracker)
    encoded = tracker.open(moving_square())
    keyframes = (0, 4, 8)
    candidates = tracker.candidates(encoded, POINTS, CONFIG, keyframes=keyframes)
    assert sum(calls) == 3
    tracker.propagate(encoded, candidates, frames=keyframes)
    assert sum(calls) == 3
    tracker.propagate(encoded, candidates[:1])
    tracker.propagate(encoded, candidates)
    assert sum(calls) == 9


def test_frames_are_encoded_while_something_else_is_done(tracker: Tracker) -> None:
    video = moving_square()
    expected = tracker.open(video)
    tracker.encode(expected)
    encoded = tracker.open(video)
    calls = count_encodings(tracker)
    with tracker.encoding_ahead(encoded, [8, 4]):
        deadline = time.monotonic() + 30
        while sum(calls) < len(video) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert calls == [4, 4, 1]
    assert encoded.missing(range(9)) == []
    for frame in range(9):
        for level, other in zip(encoded.get(frame), expected.get(frame), strict=True):
            torch.testing.assert_close(level, other)
    with tracker.encoding_ahead(encoded, [8, 4]):
        pass
    assert sum(calls) == len(video)


def test_encoding_ahead_stops_with_the_block(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    features = tracker.segmenter.encode_frames

    def slow(frames: NDArray[np.uint8]) -> list[tuple[torch.Tensor, ...]]:
        begun.set()
        assert go_on.wait(30)
        return features(frames)

    monkeypatch.setattr(tracker.segmenter, "encode_frames", slow)
    encoded = tracker.open(moving_square())
    with tracker.encoding_ahead(encoded, [8, 4]):
        assert begun.wait(30)
        threading.Timer(2.0, go_on.set).start()
    assert encoded.missing(range(9)) == [2, 3, 5, 6, 7]  # what was begun is kept


def test_of_a_long_video_only_what_is_asked_for_is_encoded_ahead(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerseg.tracking.features.STREAMED_FRAMES", 8)
    calls = count_encodings(tracker)
    with tracker.encoding_ahead(tracker.open(moving_square()), [8, 4]):
        pass
    assert sum(calls) <= 2


def test_features_over_budget_are_forgotten_and_made_again(folder: Path) -> None:
    plenty = Tracker.from_pretrained(folder)
    scarce = Tracker(Sam2(plenty.segmenter.model, version="scarce"), feature_bytes=60_000)
    video = moving_square()
    results = []
    for tracker in (plenty, scarce):
        encoded = tracker.open(video)
        results.append(tracker.propagate(encoded, started(tracker, encoded)).logits)
    assert torch.allclose(results[0], results[1], atol=1e-4)
    assert len(encoded.missing(range(9))) > 0


def test_a_frame_of_this_step_makes_no_room_for_another_one(folder: Path) -> None:
    """Tracks that start on different frames are on different ones, of which some may be there from long ago."""
    tracker = Tracker.from_pretrained(folder)
    frame = tracker.segmenter.encode_frames(moving_square().frames[:1])[0]
    tracker.encoder.feature_bytes = 2 * sum(level.numel() * level.element_size() for level in frame)
    encoded = tracker.open(moving_square())
    tracker.encode(encoded, [0, 1])
    levels = tracker.encoder.levels(encoded, [0, 5])
    assert [len(level) for level in levels] == [2] * len(levels)
    assert encoded.missing(range(9)) == [1, 2, 3, 4, 6, 7, 8]


def test_streamed_tracks_are_those_of_all_frames_at_once(folder: Path) -> None:
    plenty = Tracker.from_pretrained(folder)
    scarce = Tracker(Sam2(plenty.segmenter.model, version="scarce"), feature_bytes=60_000)
    video = moving_square()
    whole, streamed = plenty.open(video), scarce.open(video)
    expected = plenty.propagate(whole, started(plenty, whole)).tracklets()
    given = scarce.track(streamed, started(scarce, streamed))
    assert any(rle["counts"] != expected[0].rles[0]["counts"] for rle in expected[0].rles)
    for one, other in zip(given, expected, strict=True):
        assert one.rles == other.rles
        assert np.allclose(one.frame_scores, other.frame_scores, atol=1e-5)
        assert one.prompt == other.prompt
    # A candidate that was tracked over every frame already is not tracked again.
    calls = count_encodings(plenty)
    known = plenty.propagate(whole, started(plenty, whole)).candidates
    before = sum(calls)
    assert [track.rles for track in plenty.track(whole, known)] == [track.rles for track in expected]
    assert sum(calls) == before


def test_points_on_the_same_object_give_one_candidate(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    twice = [point(4, 0.5, 0.5, value=0.8), point(4, 0.5, 0.5, value=1.0)]
    candidates = tracker.candidates(encoded, twice, CONFIG)
    assert len(candidates) == 1
    assert candidates[0].prompt.value == 1.0
    assert candidates[0].score == pytest.approx(candidates[0].predicted_iou + 1.0)


def test_half_precision_on_a_processor_gives_about_the_same(
    tracker: Tracker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(one: Tracker) -> torch.Tensor:
        encoded = one.open(moving_square())
        started = [
            one.start(encoded, [prompt])
            for prompt in (Prompt(2, ((0.3, 0.4),), (True,)), Prompt(2, box=(0.2, 0.2, 0.4, 0.6)))
        ]
        started[0] = one.correct(encoded, started[0], Prompt(6, ((0.8, 0.8),), (True,)))
        return one.propagate(encoded, started).logits

    monkeypatch.setattr(frozen, "multiplies_bfloat16", lambda: True)  # torch imitates it where it is not so
    native = Tracker.from_pretrained(folder, config=SegmenterConfig(cpu_precision="native"))
    expected, given = follow(tracker), follow(native)
    assert given.dtype == torch.float32
    assert 0 < (given - expected).norm() <= 0.1 * expected.norm()


def test_a_later_keyframe_does_not_repeat_an_earlier_tracklet(tracker: Tracker) -> None:
    """On a still picture a track stays what it was decoded as, so every keyframe's point is a duplicate."""
    encoded = tracker.open(video_from_frames(np.repeat(moving_square(1).frames, 5, axis=0), fps=8.0))
    points = [point(frame, 0.4, 0.5, value=1.0 - frame / 10) for frame in (0, 2, 4)]
    lenient = replace(CONFIG, duplicate_iou=0.2)
    assert len(tracker.candidates(encoded, points, lenient, keyframes=range(5))) == 1
    strict = replace(CONFIG, duplicate_iou=1.0)
    assert len(tracker.candidates(encoded, points, strict, keyframes=range(5))) == 3


def test_candidates_are_limited_and_start_with_the_best(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    candidates = tracker.candidates(encoded, POINTS, replace(CONFIG, max_candidates=2))
    assert len(candidates) == 2
    everything = tracker.candidates(encoded, POINTS, CONFIG)
    assert candidates[0].prompt == everything[0].prompt
    assert everything[0].score == max(candidate.score for candidate in everything)


def test_candidates_that_are_known_are_not_found_again(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    lenient = replace(CONFIG, duplicate_iou=0.0)
    known = tracker.candidates(encoded, POINTS[:1], lenient)
    assert len(known) == 1
    assert tracker.candidates(encoded, POINTS[:1], lenient, known=known) == []


def test_no_points_give_no_candidates_and_no_tracklets(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    assert tracker.candidates(encoded, [], CONFIG) == []
    nothing = tracker.propagate(encoded, [])
    assert nothing.soft_masks().shape == (0, 9, 16, 16)
    assert nothing.tracklets() == ()


@pytest.mark.parametrize(("height", "width"), [(45, 70), (71, 33), (1, 97), (64, 64)])
def test_masks_have_the_size_of_the_video(tracker: Tracker, height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, (3, height, width, 3), dtype=np.uint8)
    encoded = tracker.open(video_from_frames(frames, fps=5.0))
    candidate = tracker.start(encoded, [Prompt(1, points=((0.5, 0.5),), labels=(True,))])
    propagation = tracker.propagate(encoded, [candidate])
    assert propagation.masks(0).shape == (3, height, width)
    (tracklet,) = propagation.tracklets()
    assert tracklet.masks.shape == (3, height, width)
    assert np.array_equal(tracklet.masks, propagation.masks(0))
    assert tracklet.frame_scores.shape == (3,)
    assert (tracklet.frame_scores >= 0).all()
    assert (tracklet.frame_scores <= 1).all()
    assert tracklet.prompt.frame == 1


def test_a_single_frame(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square(1))
    candidates = tracker.candidates(encoded, [point(0, 0.3, 0.5)], CONFIG)
    propagation = tracker.propagate(encoded, candidates)
    assert propagation.logits.shape == (1, 1, 16, 16)
    assert len(propagation.tracklets()[0].rles) == 1


def test_a_subset_of_frames_that_leaves_the_prompted_one_out(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    candidate = tracker.start(encoded, [Prompt(4, points=((0.5, 0.5),), labels=(True,))])
    propagation = tracker.propagate(encoded, [candidate], frames=(0, 2, 7))
    assert propagation.frames == (0, 2, 7)
    assert propagation.logits.shape[:2] == (1, 3)
    fewer = propagation.on((2, 7))
    assert fewer.frames == (2, 7)
    assert torch.equal(fewer.logits, propagation.logits[:, 1:])
    assert np.array_equal(fewer.masks(0), propagation.masks(0)[1:])


def test_a_track_is_refilled_on_some_frames_and_stays_on_all_others(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    candidate = tracker.start(encoded, [Prompt(4, points=((0.5, 0.5),), labels=(True,))])
    nothing = encode_rle(np.zeros((45, 70), dtype=bool))
    track = RefilledTrack([nothing] * 9, np.zeros(9, dtype=np.float32), (6, 7), 45, 70)
    tracker.follow(encoded, [candidate], [track], frames=(6, 7))
    expected = tracker.propagate(encoded, [candidate], frames=(6, 7)).tracklets()[0]
    assert track.rles[6:8] == expected.rles
    assert np.allclose(track.presence[6:8], expected.frame_scores)
    assert all(rle == nothing for frame, rle in enumerate(track.rles) if frame not in (6, 7))
    assert not track.presence[[0, 4, 8]].any()


def square_mask() -> NDArray[np.bool_]:
    mask = np.zeros((45, 70), dtype=bool)
    mask[10:30, 21:41] = True
    return mask


def test_a_mask_prompt_is_the_truth_on_its_frame(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    candidate = tracker.start(encoded, [Prompt(4, mask=square_mask())])
    masks = tracker.propagate(encoded, [candidate]).masks(0)
    overlap = (masks[4] & square_mask()).sum() / (masks[4] | square_mask()).sum()
    assert overlap > 0.8
    assert candidate.prompt.x == pytest.approx(31 / 70)
    assert candidate.prompt.y == pytest.approx(20 / 45)


def test_boxes_and_prompts_on_several_frames(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    prompts = [
        Prompt(6, mask=square_mask()),
        Prompt(2, points=((0.3, 0.4), (0.9, 0.9)), labels=(True, False), box=(0.2, 0.2, 0.3, 0.4)),
    ]
    candidate = tracker.start(encoded, prompts)
    both = tracker.propagate(encoded, [candidate])
    alone = tracker.propagate(encoded, [tracker.start(encoded, prompts[1:])])
    assert torch.allclose(both.logits[0, 2], alone.logits[0, 2], atol=1e-4)
    # The mask is kept on its frame and changes its neighbours, before and behind.
    assert tracker.propagate(encoded, [candidate]).masks(0)[6].sum() == pytest.approx(400, abs=80)
    for frame in (0, 3, 7):
        assert not torch.allclose(both.logits[0, frame], alone.logits[0, frame], atol=1e-3)
    # Objects with different patterns of prompts share one call.
    mixed = tracker.propagate(encoded, [candidate, *started(tracker, encoded)])
    assert torch.allclose(mixed.logits[0], both.logits[0], atol=1e-4)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "needs clicks"),
        ({"points": ((0.5, 0.5),)}, "labels"),
        ({"mask": np.ones((2, 2), dtype=bool), "box": (0, 0, 1, 1)}, "truth"),
    ],
)
def test_prompts_that_make_no_sense(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(0, **keywords)


def test_prompts_outside_the_video(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    with pytest.raises(ValueError, match="frames 0 to 8"):
        tracker.start(encoded, [Prompt(9, box=(0.1, 0.1, 0.2, 0.2))])
    with pytest.raises(ValueError, match="at least one prompt"):
        tracker.start(encoded, [])
    with pytest.raises(ValueError, match="the mask is"):
        tracker.start(encoded, [Prompt(0, mask=np.ones((3, 3), dtype=bool))])


def test_progress_rises_to_one_and_can_cancel(tracker: Tracker) -> None:
    encoded = tracker.open(moving_square())
    candidates = started(tracker, encoded)
    reported: list[float] = []
    tracker.propagate(encoded, candidates, progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 1.0
    assert len(reported) >= 9

    reported.clear()
    tracker.candidates(encoded, POINTS, CONFIG, keyframes=range(0, 9, 2), progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == 1.0

    def stop(fraction: float) -> None:
        if fraction > 0.5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tracker.propagate(encoded, candidates, progress=stop)
    # Nothing is left half done.
    assert tracker.propagate(encoded, candidates).logits.shape[1] == 9


def test_memory_does_not_grow_with_the_video(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[int, int]] = []
    made: list[tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor]]] = []
    step = TrackingStep.__call__

    def watched(self: TrackingStep, *arguments: Any) -> tuple[torch.Tensor, ...]:
        held.append((sum(memory() is not None for _, memory in made), sum(p() is not None for p, _ in made)))
        output = step(self, *arguments)
        made.append((weakref.ref(output[1]), weakref.ref(output[2])))
        return output

    monkeypatch.setattr(TrackingStep, "__call__", watched)
    encoded = tracker.open(moving_square(30, width=140))
    tracker.propagate(encoded, [tracker.start(encoded, [Prompt(0, box=(0.1, 0.2, 0.2, 0.4))])])
    assert len(held) == 29
    assert max(memories for memories, _ in held) <= 4
    assert max(pointers for _, pointers in held) <= 5


def test_the_model_is_frozen_and_its_version_names_its_weights(tracker: Tracker, folder: Path) -> None:
    assert not any(parameter.requires_grad for parameter in tracker.segmenter.model.parameters())
    assert tracker.version.startswith(f"{folder.name}:")
    assert tracker.version == Tracker.from_pretrained(folder).version


def test_the_published_layout_loads(tmp_path: Path) -> None:
    """A configuration of ``SAM2Base`` beside a ``{"model": ...}`` checkpoint, with three masks a click."""
    config = model_config(SMALL_SAM2)
    config["model"] |= {
        "_target_": "sam2.modeling.sam2_base.SAM2Base",
        "multimask_output_in_sam": True,
        "multimask_output_for_tracking": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
        "use_multimask_token_for_obj_ptr": True,
    }
    config["model"]["image_encoder"]["neck"]["_target_"] = "sam2.modeling.backbones.image_encoder.FpnNeck"
    OmegaConf.save(OmegaConf.create(config), tmp_path / "sam2.1_hiera_x.yaml")
    other = build_sam2(replace(SMALL_SAM2, width=16))
    torch.save({"model": other.state_dict()}, tmp_path / "sam2.1_hiera_x.pt")
    with pytest.raises(ModelError, match="does not fit"):
        Tracker.from_pretrained(tmp_path)
    torch.manual_seed(3)
    model = instantiate(OmegaConf.create(config["model"]))
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 8.0)
    torch.save({"model": model.state_dict()}, tmp_path / "sam2.1_hiera_x.pt")
    tracker = Tracker.from_pretrained(tmp_path)
    assert tracker.segmenter.model.binarize_mask_from_pts_for_mem_enc
    encoded = tracker.open(moving_square())
    candidates = started(tracker, encoded)
    together = tracker.propagate(encoded, candidates)
    for i, candidate in enumerate(candidates):
        alone = tracker.propagate(encoded, [candidate])
        assert torch.allclose(together.logits[i], alone.logits[0], atol=1e-4)


@pytest.mark.parametrize("generation", ["sam2", "sam2.1"])
@pytest.mark.parametrize(("size", "width"), [("tiny", 96), ("small", 96), ("base-plus", 112), ("large", 144)])
def test_every_published_size_is_known_by_its_hub_id(generation: str, size: str, width: int) -> None:
    """Which weights and which of the package's configurations an id stands for."""
    config, weights = HF_MODEL_ID_TO_FILENAMES[f"facebook/{generation}-hiera-{size}"]
    model = OmegaConf.load(Path(sam2.__file__).parent / config).model
    assert model.image_encoder.trunk.embed_dim == width
    assert bool(model.get("no_obj_embed_spatial")) == (generation == "sam2.1")
    assert weights == f"{generation}_hiera_{size.replace('-', '_')}.pt"


def test_folders_that_are_no_model(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="neither a folder nor a published"):
        Tracker.from_pretrained("somebody/else")
    with pytest.raises(ModelError, match="configuration"):
        Tracker.from_pretrained(tmp_path)
    config = OmegaConf.load(folder / "config.yaml")
    config.model.memory_attention = {"_target_": "os.system", "command": "true"}
    OmegaConf.save(config, tmp_path / "config.yaml")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="will not be run"):
        Tracker.from_pretrained(tmp_path)
    (tmp_path / "config.yaml").write_text("name: something else\n")
    with pytest.raises(ModelError, match="no SAM 2 configuration"):
        Tracker.from_pretrained(tmp_path)
