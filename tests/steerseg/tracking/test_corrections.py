"""Correcting clicks against sam2's own predictor, on a small SAM 2 with random weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steerseg.config import PUBLISHED, Conditioning, PipelineConfig, SegmenterConfig
from steerseg.demo.sam2 import build_sam2, save_sam2
from steerseg.masks import iou
from steerseg.points import PointPrompt
from steerseg.segmenters.pixels import preprocess, preprocess_bicubic
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Prompt, Tracker
from steerseg.video import Video, video_from_frames
from tests.conftest import SMALL_SAM2
from tests.support.tiny_sam2 import make_heard

FRAMES, HEIGHT, WIDTH = 12, 45, 70
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    torch.manual_seed(7)
    model = build_sam2(SMALL_SAM2)
    with torch.no_grad():
        make_heard(model)
    path = tmp_path_factory.mktemp("sam2")
    save_sam2(model.state_dict(), SMALL_SAM2, path)
    return Tracker.from_pretrained(path)


@pytest.fixture(scope="module")
def video() -> Video:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 90, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(FRAMES):
        pictures[t, 10:30, 5 + 4 * t : 25 + 4 * t] = (220, 120, 40)
    return video_from_frames(pictures, fps=8.0)


class Stock:
    """The package's predictor over the pictures that the tracker sees.

    Args:
        tracker: Lends its model.
        video: The video.
        conditions: ``add_all_frames_to_correct_as_cond``.
        published: Whether frames and clicks reach it as in its own code, and not as in ours.
    """

    def __init__(
        self, tracker: Tracker, video: Video, *, conditions: bool = True, published: bool = False
    ) -> None:
        self._predictor = copy.deepcopy(tracker.segmenter.model)
        self._predictor.add_all_frames_to_correct_as_cond = conditions
        self._shift = 0.0 if published else 0.5 / SMALL_SAM2.image_size
        images = preprocess(torch.from_numpy(video.frames), SMALL_SAM2.image_size)
        if published:
            images = preprocess_bicubic(video.frames, SMALL_SAM2.image_size)
        with pytest.MonkeyPatch.context() as patch:
            loaded = (images, video.height, video.width)
            patch.setattr("sam2.sam2_video_predictor.load_video_frames", lambda **_: loaded)
            self._state = self._predictor.init_state("frames")

    def click(self, prompt: Prompt) -> NDArray[np.bool_]:
        """The (H, W) mask of the prompt's frame."""
        box = None
        if prompt.box is not None:
            x, y, width, height = prompt.box
            box = np.array([x, y, x + width, y + height]) - self._shift
        _, _, masks = self._predictor.add_new_points_or_box(
            self._state,
            prompt.frame,
            obj_id=1,
            points=np.array(prompt.points).reshape(-1, 2) - self._shift,
            labels=np.array(prompt.labels, dtype=np.int32),
            normalize_coords=False,
            box=box,
        )
        return (masks[0, 0] > 0).numpy()

    def prompt_again(self, frame: int, mask: NDArray[np.bool_]) -> None:
        """Forget all, and go on from a mask."""
        self._predictor.reset_state(self._state)
        self._predictor.add_new_mask(self._state, frame, obj_id=1, mask=mask)

    def remember(self, frame: int, mask: NDArray[np.bool_]) -> torch.Tensor:
        """The memory (C, h, w) of a mask."""
        self.prompt_again(frame, mask)
        self._predictor.propagate_in_video_preflight(self._state)
        kept = self._state["output_dict_per_obj"][0]["cond_frame_outputs"][frame]
        return kept["maskmem_features"][0].float()

    def propagate(self, **options: Any) -> dict[int, NDArray[np.bool_]]:
        """The (H, W) masks by frame."""
        passed = self._predictor.propagate_in_video(self._state, **options)
        return {frame: (masks[0, 0] > 0).numpy() for frame, _, masks in passed}


def click(frame: int, *points: tuple[float, float, bool]) -> Prompt:
    return Prompt(
        frame, points=tuple((x, y) for x, y, _ in points), labels=tuple(label for _, _, label in points)
    )


def assert_same(ours: NDArray[np.bool_], expected: NDArray[np.bool_], frame: int) -> None:
    assert 0 < expected.sum() < expected.size, "an empty or full mask would compare nothing"
    assert iou(ours, expected) >= 0.99, frame


FORWARDS = (
    click(0, (0.2, 0.4, True)),
    [click(6, (0.9, 0.9, True)), click(3, (0.5, 0.2, False)), click(9, (0.3, 0.3, True), (0.8, 0.2, False))],
)
BACKWARDS = (
    click(FRAMES - 1, (0.8, 0.4, True)),
    [click(4, (0.1, 0.9, True)), click(8, (0.5, 0.2, False))],
)
BOXES = (
    Prompt(0, box=(0.1, 0.2, 0.3, 0.4)),
    [Prompt(5, box=(0.3, 0.2, 0.3, 0.5), points=((0.6, 0.9),), labels=(False,)), click(0, (0.9, 0.9, True))],
)


@pytest.mark.parametrize(
    ("prompts", "reverse"),
    [(FORWARDS, False), (BACKWARDS, True), (BOXES, False)],
    ids=["on", "back", "boxes"],
)
def test_corrections_are_those_of_the_stock_predictor(
    tracker: Tracker, video: Video, prompts: tuple[Prompt, Sequence[Prompt]], reverse: bool
) -> None:
    """Corrected frames and all propagated ones, after every correction."""
    first, corrections = prompts
    stock, encoded = Stock(tracker, video), tracker.open(video)
    stock.click(first)
    options = {"start_frame_idx": first.frame, "reverse": reverse}
    before = stock.propagate(**options)
    candidate = tracker.start(encoded, [first])
    changed = 0
    for correction in corrections:
        answered = stock.click(correction)
        candidate = tracker.correct(encoded, candidate, correction)
        ours = tracker.propagate(encoded, [candidate]).masks(0)
        assert_same(ours[correction.frame], answered, correction.frame)
        expected = stock.propagate(**options)
        assert len(expected) == FRAMES
        for frame, mask in expected.items():
            assert_same(ours[frame], mask, frame)
        changed += sum(bool((expected[frame] != before[frame]).any()) for frame in expected)
        before = expected
    assert changed > FRAMES / 2, "corrections that change nothing compare nothing"


def test_the_frame_alone_answers_otherwise(tracker: Tracker, video: Video) -> None:
    """So the comparison above would see a correction without memory."""
    first, (correction, *_) = FORWARDS
    encoded = tracker.open(video)
    candidate = tracker.start(encoded, [first])
    tracked = tracker.propagate(encoded, [candidate]).masks(0)[correction.frame]
    alone = tracker.start(
        encoded,
        [Prompt(correction.frame, correction.points, correction.labels, earlier=tracked)],
    )
    without = tracker.propagate(encoded, [alone], frames=[correction.frame]).masks(0)[0]
    corrected = tracker.correct(encoded, candidate, correction)
    with_memory = tracker.propagate(encoded, [corrected]).masks(0)[correction.frame]
    assert iou(without, with_memory) < 0.9


def test_published_settings_are_the_stock_predictors(tracker: Tracker, video: Video) -> None:
    """Resampling, the position of clicks, and going on from a mask, together; each by itself shows in the masks."""
    model, version = tracker.segmenter.model, "small"
    first = FORWARDS[0]
    stock = Stock(tracker, video, published=True)
    decoded = stock.click(first)
    stock.prompt_again(first.frame, decoded)
    expected = stock.propagate()

    def tracked(segmenter: SegmenterConfig, conditioning: Conditioning) -> NDArray[np.bool_]:
        ours = Tracker(Sam2(model, version=version, config=segmenter))
        encoded = ours.open(video)
        point = PointPrompt(first.frame, *first.points[0], value=1.0)
        config = PipelineConfig(conditioning=conditioning)
        (candidate,) = ours.candidates(encoded, [point], config, keyframes=range(FRAMES))
        return ours.propagate(encoded, [candidate]).masks(0)

    as_published = tracked(PUBLISHED.segmenter, PUBLISHED.pipeline.conditioning)
    for frame, mask in expected.items():
        assert_same(as_published[frame], mask, frame)
    for segmenter, conditioning in (
        (replace(PUBLISHED.segmenter, mask_memory="mask"), "mask"),
        (replace(PUBLISHED.segmenter, resampling="bilinear"), "mask"),
        (replace(PUBLISHED.segmenter, clicks="exact"), "mask"),
        (PUBLISHED.segmenter, "click"),
    ):
        assert (tracked(segmenter, conditioning) != as_published).any()


def test_a_given_mask_is_remembered_as_the_stock_predictor_does(tracker: Tracker, video: Video) -> None:
    """By logits at a quarter of the input size, made binary; a line of one pixel is not among them."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:30, 12:40] = True
    mask[38, 5:60] = True
    stock = Stock(tracker, video, published=True)
    expected = stock.remember(0, mask)

    def memory(segmenter: SegmenterConfig) -> torch.Tensor:
        ours = Sam2(tracker.segmenter.model, version="small", config=segmenter)
        levels = [level[None] for level in ours.encode_frames(video.frames[:1])[0]]
        (remembered,) = ours.encode_memories(levels, [ours.decode_mask(levels, mask)])
        return remembered.spatial.float()

    scale = expected.abs().mean()
    assert (memory(PUBLISHED.segmenter) - expected).abs().mean() < 1e-2 * scale  # which is kept in bfloat16
    whole = memory(replace(PUBLISHED.segmenter, mask_memory="mask"))
    assert (whole - expected).abs().mean() > 3e-2 * scale


def test_the_stock_predictor_loses_corrections_that_do_not_condition(tracker: Tracker, video: Video) -> None:
    """The reason why corrections condition here: without the flag the package tracks the frame anew."""
    first, (correction, *_) = FORWARDS
    stock = Stock(tracker, video, conditions=False)
    stock.click(first)
    before = stock.propagate()
    answered = stock.click(correction)
    after = stock.propagate()
    assert (answered != before[correction.frame]).any()
    assert all((after[frame] == before[frame]).all() for frame in before)


def test_a_mask_or_a_frame_outside_corrects_nothing(tracker: Tracker, video: Video) -> None:
    encoded = tracker.open(video)
    candidate = tracker.start(encoded, [click(0, (0.2, 0.4, True))])
    with pytest.raises(ValueError, match="start the object with it"):
        tracker.correct(encoded, candidate, Prompt(3, mask=np.ones((HEIGHT, WIDTH), dtype=bool)))
    with pytest.raises(ValueError, match="frames 0 to 11"):
        tracker.correct(encoded, candidate, click(FRAMES, (0.5, 0.5, True)))
