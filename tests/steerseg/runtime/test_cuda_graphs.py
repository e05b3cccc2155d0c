"""What surrounds captured steps, on a CPU: recorded runs that read and write the same memory each time."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steerseg.errors import Cancelled
from steerseg.points import PointPrompt
from steerseg.runtime import cuda_graphs
from steerseg.runtime.cuda_graphs import _copy_all
from steerseg.segmenters.frozen import round_multiplied_weights
from steerseg.segmenters.sam2 import Sam2
from steerseg.segmenters.sam2_step import attended_memories
from steerseg.tracking import EncodedVideo, Prompt, Tracker
from steerseg.tracking.host_transfer import HostTransfer
from steerseg.video import video_from_frames
from tests.conftest import SMALL_SAM2
from tests.support.reruns import Rerun


def product(key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
    assert isinstance(key, int)
    return rows[0] * key + shared[0], rows[1].sum(dim=1)


def arguments(count: int, seed: int, width: int = 5) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(count, width, generator=generator), torch.randn(count, 7, generator=generator)]
    return rows, [torch.randn(width, generator=generator)]


def test_replays_give_what_calls_give() -> None:
    """Of any number of rows, keys and shapes, in turn; answers stay what they were when the next call comes."""
    calls = Rerun(product)
    kept = []
    for seed in range(40):
        key, count, width = 1 + seed % 2, 1 + seed % 5, 5 + seed % 3 // 2
        rows, shared = arguments(count, seed, width)
        kept.append((calls(key, rows, shared), product(key, rows, shared)))
    for given, expected in kept:
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
    assert calls.replays > 10
    assert 0 < len(calls) <= 16


def test_inputs_of_any_layout_and_type_are_copied() -> None:
    whole = torch.arange(24.0).view(2, 3, 4)
    sources = [
        whole,
        whole.transpose(1, 2),
        whole[:, :1].expand(-1, 3, -1),
        whole.to(torch.bfloat16),
        whole[1],
    ]
    targets = [torch.zeros_like(source, memory_format=torch.contiguous_format) for source in sources]
    targets.append(torch.zeros(2, 3, 4))
    _copy_all(targets, [*sources, whole.to(torch.bfloat16)])
    for target, source in zip(targets, [*sources, whole], strict=True):
        assert torch.equal(target, source)


def test_first_sights_are_not_captured() -> None:
    calls = Rerun(product)
    calls(1, *arguments(2, 0))
    assert len(calls) == 0
    calls(1, *arguments(2, 0))
    assert len(calls) == 1
    calls.enabled = False
    calls(1, *arguments(2, 0))
    assert calls.replays == 1


def test_many_rows_are_replays_of_a_few_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nineteen rows are two replays of eight, and one of four; nine need no second form of eight."""
    monkeypatch.setattr(cuda_graphs, "_is_roomy", lambda device: False)
    calls = Rerun(product)
    for seed in range(4):
        rows, shared = arguments(19, seed)
        given = calls(3, rows, shared)
        assert all(torch.equal(a, b) for a, b in zip(given, product(3, rows, shared), strict=True))
        assert len(calls) == (2 if seed else 0)
    replays = calls.replays
    rows, shared = arguments(9, 9)
    calls(3, rows, shared)
    assert torch.equal(calls(3, rows, shared)[1], product(3, rows, shared)[1])
    assert len(calls) == 3
    assert calls.replays == replays + 3  # the single row was seen once before it was captured


def test_many_rows_are_fewer_replays_where_there_is_room() -> None:
    """Sixty rows are one replay of thirty-two, one of sixteen, one of eight and one of four."""
    calls = Rerun(product)
    for seed in range(3):
        rows, shared = arguments(60, seed)
        given = calls(3, rows, shared)
        assert all(torch.equal(a, b) for a, b in zip(given, product(3, rows, shared), strict=True))
    assert len(calls) == 4
    assert calls.replays == 8


def test_a_replay_that_is_off_is_not_used() -> None:
    calls = Rerun(product)
    calls.wrong = 0.5
    for key in range(1, 5):
        for seed in range(3):
            rows, shared = arguments(3, seed)
            results = zip(calls(key, rows, shared), product(key, rows, shared), strict=True)
            assert all(torch.equal(a, b) for a, b in results)
    assert calls.replays == 0
    assert not calls.enabled  # after three forms that failed, no more are tried


def test_what_cannot_be_captured_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Rerun(product)

    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(calls, "_capture", refuse)
    rows, shared = arguments(3, 0)
    for _ in range(3):
        assert torch.equal(calls(2, rows, shared)[0], product(2, rows, shared)[0])


def test_capturing_takes_memory_that_is_held_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is full but for what PyTorch holds."""
    calls, held = Rerun(product), [True]
    capture = calls._capture

    def full(*given: Any) -> Any:
        if held[0]:
            raise torch.OutOfMemoryError("64 MiB")
        return capture(*given)

    monkeypatch.setattr(calls, "_capture", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.__setitem__(0, False))
    for seed in range(3):
        rows, shared = arguments(3, seed)
        assert torch.equal(calls(2, rows, shared)[0], product(2, rows, shared)[0])
    assert calls.replays == 2


def test_a_card_that_is_full_for_now_does_not_end_capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Rerun(product)
    capture = calls._capture

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("64 MiB")

    monkeypatch.setattr(calls, "_capture", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    for width in range(2, 8):
        for seed in range(2):
            calls(2, *arguments(3, seed, width))
    monkeypatch.setattr(calls, "_capture", capture)
    for seed in range(3):
        rows, shared = arguments(3, seed)
        assert torch.equal(calls(3, rows, shared)[0], product(3, rows, shared)[0])
    assert calls.replays == 2


@pytest.fixture
def tracker() -> Tracker:
    from steerseg.demo.sam2 import build_sam2

    torch.manual_seed(3)
    model = build_sam2(SMALL_SAM2)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(8.0)
    return Tracker(Sam2(model, version="random"))


def opened(tracker: Tracker, frames: int) -> EncodedVideo:
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 45, 70, 3), dtype=np.uint8)
    return tracker.open(video_from_frames(pixels, fps=8))


def test_tracking_by_replays_gives_the_same_masks(tracker: Tracker) -> None:
    """Objects that start on different frames, go both ways, and end at different times."""
    encoded = opened(tracker, 14)
    prompts = [(3, 0.2), (3, 0.8), (9, 0.5), (0, 0.4)]
    started = [tracker.start(encoded, [Prompt(frame, ((x, 0.5),), (True,))]) for frame, x in prompts]
    plain = tracker.propagate(encoded, started)
    sam2 = tracker.segmenter
    assert isinstance(sam2, Sam2)
    calls = Rerun(sam2.tracking_step())
    sam2.captured_steps = calls
    for _ in range(2):
        again = tracker.propagate(encoded, started)
        scale = plain.logits.abs().max()
        assert float((again.logits - plain.logits).abs().max()) < 1e-5 * float(scale)
        assert np.allclose(again.frame_scores, plain.frame_scores, atol=1e-6)
    assert calls.replays > 15


def test_weights_that_are_rounded_before_give_what_autocast_gives(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker.segmenter, "_precision", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    results = []
    for rounded in (False, True):
        if rounded:
            round_multiplied_weights(tracker.segmenter.model, torch.bfloat16)
        encoded = opened(tracker, 6)
        mask = np.zeros((45, 70), dtype=bool)
        mask[10:30, 20:50] = True
        prompts = [
            Prompt(1, ((0.4, 0.5),), (True,)),
            Prompt(1, box=(0.2, 0.2, 0.5, 0.4), earlier=mask),
            Prompt(2, mask=mask),
        ]
        started = [tracker.start(encoded, [prompt]) for prompt in prompts]
        results.append(tracker.propagate(encoded, started).logits)
    assert torch.equal(*results)


def test_warming_sees_every_form_of_later_videos(tracker: Tracker) -> None:
    encoded = opened(tracker, 20)
    started = [tracker.start(encoded, [Prompt(7, ((x, 0.5),), (True,))]) for x in (0.2, 0.8)]
    sam2 = tracker.segmenter
    assert isinstance(sam2, Sam2)
    calls = Rerun(sam2.tracking_step())
    sam2.captured_steps = calls
    tracker.capture_steps((2, 4))
    before = len(calls)
    tracker.propagate(encoded, started)
    assert len(calls) == before > 4
    assert calls.sights == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captured_steps_give_the_same_masks(tracker: Tracker, dtype: torch.dtype) -> None:
    sam2 = Sam2(tracker.segmenter.model.cuda(), version="small", dtype=dtype)
    captured = Tracker(sam2)
    encoded = opened(captured, 24)
    started = [captured.start(encoded, [Prompt(frame, ((0.4, 0.5),), (True,))]) for frame in (0, 5, 5)]
    sam2.captures = captured.propagator.in_blocks = False
    plain = captured.propagate(encoded, started)
    sam2.captures = captured.propagator.in_blocks = True
    captured.warm((1, 4))
    for _ in range(3):
        again = captured.propagate(encoded, started)
        if dtype == torch.float32:
            assert torch.allclose(again.logits, plain.logits, rtol=1e-3, atol=1e-3)
        else:
            agreeing = ((again.logits > 0) == (plain.logits > 0)).float().mean()
            assert float(agreeing) > 0.98
    calls = sam2.captured_steps
    assert calls is not None
    assert calls.enabled
    assert calls.replays > 40


def test_memories_are_chosen_as_the_package_chooses_them(tracker: Tracker) -> None:
    """Against what the package's own step concatenates, by numbers in the memories and pointers."""
    model = tracker.segmenter.model
    seen: list[tuple[list[float], list[float], int]] = []

    def noted(curr: Any, memory: Tensor, num_obj_ptr_tokens: int, **_: Any) -> Tensor:
        side = SMALL_SAM2.image_size // 16
        spatial = memory[: len(memory) - num_obj_ptr_tokens, 0, 0].view(-1, side * side)[:, 0]
        pointers = memory[len(memory) - num_obj_ptr_tokens :, 0, 0].view(-1, 2)[:, 0]
        seen.append((spatial.tolist(), pointers.tolist(), num_obj_ptr_tokens))
        return curr[0]

    model.memory_attention.forward = noted
    side, channels, width = SMALL_SAM2.image_size // 16, model.mem_dim, model.hidden_dim
    for prompted in ((0,), (0, 3), (0, -4), (0, 2, 5, 6)):
        for stride, most in ((1, -1), (2, -1), (1, 2)):
            model.memory_temporal_stride_for_eval, model.max_cond_frames_in_attn = stride, most
            for index in range(1, 12):
                if index in prompted:
                    continue
                entries = {
                    other: {
                        "maskmem_features": torch.full((1, channels, side, side), float(other)),
                        "maskmem_pos_enc": [torch.zeros(1, channels, side, side)],
                        "obj_ptr": torch.full((1, width), float(other)),
                    }
                    for other in {*prompted, *range(index)}
                }
                bank = {
                    "cond_frame_outputs": {other: entries[other] for other in prompted},
                    "non_cond_frame_outputs": {
                        other: entries[other] for other in range(index) if other not in prompted
                    },
                }
                model._prepare_memory_conditioned_features(
                    frame_idx=index,
                    is_init_cond_frame=False,
                    current_vision_feats=[torch.zeros(side * side, 1, width)],
                    current_vision_pos_embeds=[torch.zeros(side * side, 1, width)],
                    feat_sizes=[(side, side)],
                    output_dict=bank,
                    num_frames=12,
                )
                spatial, pointers, _ = seen.pop()
                chosen = attended_memories(model, index, prompted, 12)
                assert [float(other) for _, other in chosen.spatial] == spatial
                assert [float(other) for _, other in chosen.pointers] == pointers


class Arrivals:
    """Notes what arrives, and in which thread."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, float, float]] = []
        self.threads: set[int] = set()

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        self.frames.append((frame, float(logits[0, 0]), presence))
        self.threads.add(threading.get_ident())


@pytest.mark.parametrize("block_bytes", [0, 3 * 2 * 16 * 4])
def test_answers_arrive_in_order(block_bytes: int) -> None:
    first, second = Arrivals(), Arrivals()
    with HostTransfer({0: first, 1: second}, block_bytes=block_bytes) as transfer:
        for frame in range(8):
            logits = torch.full((2, 4, 4), float(frame))
            transfer.add([(0, frame), (1, 7 - frame)], logits, torch.tensor([0.25, 0.5]))
            if not block_bytes:
                assert len(first.frames) == frame + 1
    assert first.frames == [(frame, float(frame), 0.25) for frame in range(8)]
    assert second.frames == [(7 - frame, float(frame), 0.5) for frame in range(8)]
    assert (first.threads == {threading.get_ident()}) == (block_bytes == 0)


def test_what_a_sink_raises_reaches_who_adds() -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("full")

    def deliver() -> int:
        with HostTransfer({0: SimpleNamespace(put=refuse)}, block_bytes=16) as transfer:
            for frame in range(100):
                transfer.add([(0, frame)], torch.zeros(1, 4, 4), torch.zeros(1))
        return frame

    with pytest.raises(ValueError, match="full"):
        deliver()


def test_nothing_more_is_delivered_once_the_work_is_stopped() -> None:
    sink, held = Arrivals(), threading.Event()

    def slow(frame: int, logits: Tensor, presence: float) -> None:
        held.wait()
        sink.put(frame, logits, presence)

    def stopped() -> None:
        with HostTransfer({0: SimpleNamespace(put=slow)}, block_bytes=16) as transfer:
            for frame in range(4):
                transfer.add([(0, frame)], torch.zeros(1, 4, 4), torch.zeros(1))
            threading.Timer(0.05, held.set).start()
            raise Cancelled

    with pytest.raises(Cancelled):
        stopped()
    assert len(sink.frames) <= 1


def test_points_of_all_keyframes_are_decoded_together(tracker: Tracker) -> None:
    """In one call, with the answers of one call each."""
    encoded = opened(tracker, 6)
    points = [PointPrompt(frame, 0.1 + 0.15 * index, 0.4, 0.9) for index, frame in enumerate((0, 3, 3, 5))]
    together = tracker.decoder.decode_points(encoded, points)
    alone = [answer for point in points for answer in tracker.decoder.decode_points(encoded, [point])]
    assert [answer.point for answer in together] == [answer.point for answer in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.allclose(ours.answer.logits, theirs.answer.logits, atol=1e-4, rtol=1e-4)
        assert torch.equal(ours.answer.mask, ours.answer.logits > 0)


@pytest.mark.parametrize("prompts", [((0,),), ((3,), (9,)), ((2, 6), (2, 6)), ((0,),) * 6, ((5,),) * 7])
def test_memories_are_attended_to_in_fewer_passes_with_the_same_masks(
    tracker: Tracker, prompts: tuple[tuple[int, ...], ...]
) -> None:
    """Of one object or many, prompted on one frame or several, whatever the weights."""
    for parameter in tracker.segmenter.model.memory_attention.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    for layer in tracker.segmenter.model.memory_attention.layers:
        for part in (layer.self_attn, layer.cross_attn_image):
            for projection in (part.q_proj, part.k_proj, part.out_proj):
                projection.weight.data.mul_(10)
    encoded = opened(tracker, 12)
    started = [
        tracker.start(encoded, [Prompt(frame, ((0.2 + 0.1 * index, 0.5),), (True,)) for frame in frames])
        for index, frames in enumerate(prompts)
    ]
    sam2 = tracker.segmenter
    assert isinstance(sam2, Sam2)
    assert sam2.tracking_step()._memory_attention is not None
    answers = []
    for sam2.fused in (False, True):
        answers.append(tracker.propagate(encoded, started))
    plain, given = answers
    assert not torch.equal(plain.logits, given.logits)
    assert float((given.logits - plain.logits).abs().max()) <= 1e-5 * float(plain.logits.abs().max())
    assert np.allclose(given.frame_scores, plain.frame_scores, atol=1e-5)


def test_fewer_passes_keep_the_precision_of_autocast(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU under the context that a GPU runs in: memories in half precision, and about the same masks."""
    monkeypatch.setattr(tracker.segmenter, "_precision", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    sam2 = tracker.segmenter
    assert isinstance(sam2, Sam2)
    round_multiplied_weights(sam2.model, torch.bfloat16)
    encoded = opened(tracker, 8)
    started = [tracker.start(encoded, [Prompt(0, ((0.1 * x, 0.5),), (True,))]) for x in range(1, 7)]
    answers = []
    for sam2.fused in (False, True):
        answers.append(tracker.propagate(encoded, started).logits)
        step = sam2.tracking_step()
        levels = tracker.encoder.levels(encoded, [1] * len(started))
        memories = [torch.stack([each.memories[0].spatial for each in started])]
        pointers = [torch.stack([each.memories[0].pointer for each in started])]
        attended = sam2.attended_memories(1, (0,), 8)
        found = step(*step.arguments(attended, levels, memories, pointers, torch.ones(1)))
        assert [each.dtype for each in found] == [
            torch.float32,
            pointers[0].dtype,
            torch.bfloat16,
            torch.float32,
        ]
        assert found[2].shape == memories[0].shape
    plain, given = answers
    assert (given - plain).norm() <= 0.05 * plain.norm()
