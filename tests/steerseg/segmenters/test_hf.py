"""Our driver over video models of ``transformers``, against the library's own sessions on the same random weights."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Sam2ImageProcessor, Sam2VideoProcessor, Sam2VideoVideoProcessor
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from steerseg.config import SegmenterConfig
from steerseg.segmenters import frozen
from steerseg.segmenters.hf import EdgeTam, Sam3Tracker, VideoModel
from steerseg.segmenters.pixels import preprocess
from steerseg.tracking import Candidate, Prompt, Tracker
from steerseg.video import Video, video_from_frames
from tests.support.tiny_video_models import tiny_video_model

FRAMES, HEIGHT, WIDTH = 22, 45, 70
SEGMENTERS = {"sam2": VideoModel, "edgetam": EdgeTam, "sam3": Sam3Tracker}


@pytest.fixture(scope="module")
def video() -> Video:
    pictures = np.random.default_rng(0).integers(0, 90, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(FRAMES):
        pictures[t, 10:30, 2 + 2 * t : 22 + 2 * t] = (220, 120, 40)
    return video_from_frames(pictures, fps=8.0)


@pytest.fixture(scope="module", params=list(SEGMENTERS))
def tracker(request: pytest.FixtureRequest) -> Tracker:
    # Sessions have clicks half a pixel to the right and down.
    config = SegmenterConfig(clicks="shifted")
    return Tracker(SEGMENTERS[request.param](tiny_video_model(request.param), version="-", config=config))


def session_masks(
    tracker: Tracker, video: Video, objects: list[list[Prompt]]
) -> tuple[Tensor, NDArray[np.float32]]:
    """(N, T, h, w) logits and (N, T) presence of the library's session, each direction in one of its own."""
    segmenter = tracker.segmenter
    assert isinstance(segmenter, VideoModel)
    model, side = segmenter.model, segmenter.image_size
    processor = Sam2VideoProcessor(Sam2ImageProcessor(), Sam2VideoVideoProcessor(), target_size=side)
    pixels = preprocess(torch.from_numpy(video.frames), side, segmenter.statistics)
    logits: dict[int, Tensor] = {}
    presence: dict[int, Tensor] = {}
    for reverse in (False, True):
        session = Sam2VideoInferenceSession(
            video=pixels, video_height=HEIGHT, video_width=WIDTH, dtype=torch.float32
        )
        for frame in sorted({prompt.frame for prompts in objects for prompt in prompts}):
            for number, prompts in enumerate(objects):
                for prompt in (each for each in prompts if each.frame == frame):
                    add(processor, session, number, prompt)
            session.obj_with_new_inputs = list(range(len(objects)))
            model(session, frame_idx=frame)
        for output in model.propagate_in_video_iterator(session, reverse=reverse):
            logits[output.frame_idx] = output.pred_masks[:, 0]
            presence[output.frame_idx] = output.object_score_logits.flatten()
    return (
        torch.stack([logits[t] for t in range(FRAMES)], dim=1),
        torch.stack([presence[t] for t in range(FRAMES)], dim=1).sigmoid().numpy(),
    )


def add(processor: Any, session: Any, number: int, prompt: Prompt) -> None:
    if prompt.mask is not None:
        processor.add_inputs_to_inference_session(session, prompt.frame, number, input_masks=prompt.mask)
        return
    inputs: dict[str, Any] = {}
    if prompt.points:
        inputs["input_points"] = [[[[x * WIDTH, y * HEIGHT] for x, y in prompt.points]]]
        inputs["input_labels"] = [[[int(label) for label in prompt.labels]]]
    if prompt.box is not None:
        x, y, width, height = prompt.box
        inputs["input_boxes"] = [[[x * WIDTH, y * HEIGHT, (x + width) * WIDTH, (y + height) * HEIGHT]]]
    processor.add_inputs_to_inference_session(session, prompt.frame, number, **inputs)


def square() -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:30, 22:42] = True
    return mask


def click(frame: int, x: float, y: float) -> Prompt:
    return Prompt(frame, points=((x, y),), labels=(True,))


BOX = (0.3, 0.2, 0.3, 0.5)
CASES = {
    "click": [[click(10, 0.5, 0.4)]],
    "box": [[Prompt(0, box=BOX)]],
    "box and clicks": [[Prompt(21, points=((0.45, 0.4), (0.9, 0.9)), labels=(True, False), box=BOX)]],
    "mask": [[Prompt(10, mask=square())]],
    "empty mask": [[Prompt(10, mask=np.zeros((HEIGHT, WIDTH), dtype=bool))]],
    "several frames": [[click(4, 0.2, 0.4), Prompt(9, box=BOX), Prompt(17, mask=square())]],
    "many frames": [[click(frame, 0.1 + 0.03 * frame, 0.4) for frame in (3, 5, 8, 12, 15, 19)]],
    "objects": [[click(6, 0.3, 0.4)], [click(6, 0.8, 0.9)], [Prompt(6, box=BOX)]],
}


class _WithoutRounding:
    """Stands for ``torch`` in a module of the library, which then keeps its memories in float32."""

    def __getattr__(self, name: str) -> Any:
        return torch.float32 if name == "bfloat16" else getattr(torch, name)


@pytest.fixture
def without_rounding(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side rounds memories: what is 1e-7 apart may be rounded to numbers that are 4e-3 apart."""
    monkeypatch.setattr(sys.modules[type(tracker.segmenter.model).__module__], "torch", _WithoutRounding())
    monkeypatch.setattr(tracker.segmenter, "memory_dtype", torch.float32)


@pytest.mark.usefixtures("without_rounding")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fused", [False, True])
def test_the_driver_gives_what_the_session_gives(
    tracker: Tracker, video: Video, case: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker.segmenter, "fused", fused)  # as on a GPU, by torch in place of kernels
    expected, presence = session_masks(tracker, video, CASES[case])
    encoded = tracker.open(video)
    started: list[Candidate] = [tracker.start(encoded, prompts) for prompts in CASES[case]]
    given = tracker.propagate(encoded, started)
    visible = expected > -1000
    assert visible.float().mean() > 0.3  # the comparison means something only if there is something to see
    assert (given.logits - expected).abs().max() <= 1e-5 * expected[visible].abs().max()
    assert np.allclose(given.frame_scores, presence, atol=1e-5)


@torch.inference_mode()
def test_several_memories_are_condensed_as_the_library_condenses_each() -> None:
    segmenter = EdgeTam(tiny_video_model("edgetam"), version="-")
    height, width = segmenter._sizes[-1]
    memories = torch.randn(5, segmenter.model.mem_dim, height, width, generator=torch.manual_seed(0))
    each = [segmenter.model.spatial_perceiver(one[None], segmenter._memory_position)[0] for one in memories]
    expected = torch.cat(each)
    assert (segmenter._compress(memories) - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("multimask", [False, True])
def test_masks_are_decoded_as_the_library_decodes_them(
    tracker: Tracker, multimask: bool, stable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = tracker.segmenter
    assert isinstance(segmenter, VideoModel)
    model = segmenter.model
    monkeypatch.setattr(model.mask_decoder, "dynamic_multimask_via_stability", stable)
    monkeypatch.setattr(
        model.mask_decoder, "dynamic_multimask_stability_thresh", 0.995
    )  # some pass, some do not
    generator = torch.manual_seed(0)
    width = model.hidden_dim
    levels = [
        torch.randn(6, width // share, *size, generator=generator)
        for share, size in zip((8, 4, 1), segmenter._sizes, strict=True)
    ]
    positions, labels = 40 * torch.rand(6, 2, 2, generator=generator), torch.tensor([[1, 0]] * 6)
    for clicks in (None, (positions, labels)):
        at, which = clicks or (torch.zeros(6, 1, 2), -torch.ones(6, 1).int())
        sparse, dense = model.prompt_encoder(at[:, None], which[:, None], None, None)
        expected = model.mask_decoder(
            image_embeddings=levels[-1],
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=levels[:-1],
        )
        prompts = segmenter._decode._nothing if clicks is None else (sparse, dense)
        given = segmenter._decode._decode(levels, levels[-1], *prompts, multimask)
        for ours, theirs in zip(given, (part[:, 0] for part in expected), strict=True):
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_rounded_memories_give_the_same_masks(tracker: Tracker, video: Video) -> None:
    prompts = CASES["several frames"]
    expected, _ = session_masks(tracker, video, prompts)
    encoded = tracker.open(video)
    candidate = tracker.start(encoded, prompts[0])
    if not isinstance(tracker.segmenter, EdgeTam):  # its few tokens are not rounded by the library either
        assert {memory.spatial.dtype for memory in candidate.memories.values()} == {torch.bfloat16}
    given = tracker.propagate(encoded, [candidate]).logits
    assert (given - expected).abs().max() <= 1e-2 * expected.abs().max()


def test_prompts_and_memories_are_heard(tracker: Tracker, video: Video) -> None:
    """Random weights that hear nothing would pass every comparison."""
    encoded = tracker.open(video)
    started = [tracker.start(encoded, [click(10, x, 0.4)]) for x in (0.1, 0.9)]
    one, other = tracker.propagate(encoded, started).logits
    assert (one - other)[[5, 15]].abs().amax(dim=(-1, -2)).min() > 1e-2


def test_a_correction_hears_the_memories_and_conditions_other_frames(tracker: Tracker, video: Video) -> None:
    encoded = tracker.open(video)
    candidate = tracker.start(encoded, [click(4, 0.3, 0.4)])
    before = tracker.propagate(encoded, [candidate]).logits[0]
    corrected = tracker.correct(encoded, candidate, click(14, 0.9, 0.9))
    after = tracker.propagate(encoded, [corrected]).logits[0]
    alone = tracker.start(encoded, [click(14, 0.9, 0.9)]).memories[14].logits
    assert sorted(corrected.memories) == [4, 14]
    assert (after[14] - before[14]).abs().max() > 1e-3
    assert (after[14] - alone).abs().max() > 1e-3
    assert (after[20] - before[20]).abs().max() > 1e-3


def moving(tracker: Tracker, video: Video) -> Tensor:
    """(3, 9, h, w) logits of a click, a box and a mask, the box corrected later."""
    encoded = tracker.open(video_from_frames(video.frames[:9], fps=8.0))
    prompts = [click(3, 0.3, 0.4), Prompt(3, box=BOX), Prompt(3, mask=square())]
    started = [tracker.start(encoded, [prompt]) for prompt in prompts]
    started[1] = tracker.correct(encoded, started[1], click(6, 0.9, 0.9))
    return tracker.propagate(encoded, started).logits


@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_half_precision_gives_about_the_same(
    name: str, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the context that a GPU runs in, so that no number is of a wrong type."""
    kind = SEGMENTERS[name]
    expected = moving(Tracker(kind(tiny_video_model(name), version="-")), video)
    monkeypatch.setattr(frozen, "multiplies_bfloat16", lambda: True)  # torch imitates it where it is not so
    native = kind(tiny_video_model(name), version="-", config=SegmenterConfig(cpu_precision="native"))
    given = moving(Tracker(native), video)
    assert given.dtype == torch.float32
    assert not torch.equal(given, expected)
    # Of most frames: where two of three masks are about equally good, rounding decides which is taken.
    off = (given - expected).flatten(2).norm(dim=2) / expected.flatten(2).norm(dim=2)
    assert off.median() <= 0.1


def test_a_processor_without_bfloat16_computes_in_float32(
    video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = moving(Tracker(EdgeTam(tiny_video_model("edgetam"), version="-")), video)
    monkeypatch.setattr(frozen, "multiplies_bfloat16", lambda: False)
    config = SegmenterConfig(cpu_precision="native")
    given = moving(Tracker(EdgeTam(tiny_video_model("edgetam"), version="-", config=config)), video)
    assert torch.equal(given, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_a_gpu_replays_steps(name: str, dtype: torch.dtype, video: Video) -> None:
    segmenter = SEGMENTERS[name](tiny_video_model(name).cuda(), version="-", dtype=dtype)
    tracker = Tracker(segmenter)
    segmenter.captures = False
    expected = moving(tracker, video)
    segmenter.captures = True
    tracker.warm((1, 2, 4, 6))
    given = moving(tracker, video)
    assert segmenter.captured_steps is not None
    assert segmenter.captured_steps.replays > 0
    most = 1e-3 if dtype == torch.float32 else 5e-2
    assert (given - expected).norm() <= most * expected.norm()
