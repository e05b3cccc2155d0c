"""What single measures bring: each stage as it is, and with one of them left out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.objects import discs_encoded
from benchmarks.gpu.records import Records
from benchmarks.gpu.sam2_ways import BACKENDS, measure_encoding, measure_memory_attention, tracker_that
from steerseg import SteerSeg
from steerseg.attention import rollout
from steerseg.keyframes import VideoFeatures
from steerseg.lvlm import base as lvlm_base
from steerseg.lvlm import joined, layer_passes, norms, one_query, rotations
from steerseg.lvlm.resizing import resize_frames
from steerseg.lvlm.vision_attention import vision_attention_of
from steerseg.runtime import planned_attention, window_attention
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import frame_encoder
from steerseg.video import Video

_EXPRESSION = "the block that moves"
_ATTRIBUTES = ("red", "on the left")


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, an attribute is another."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def undone(undo: Callable[[], object], redo: Callable[[], object]) -> Iterator[None]:
    """Inside, something is undone."""
    undo()
    try:
        yield
    finally:
        redo()


def pieces_in_turn(steerseg: SteerSeg) -> AbstractContextManager[None]:
    """Inside, the vision tower attends within one window after the other."""
    model = steerseg.lvlm.model
    return undone(
        lambda: model.set_attn_implementation({"vision_config": "sdpa"}),
        lambda: model.set_attn_implementation({"vision_config": vision_attention_of(model)}),
    )


def separate_norms(steerseg: SteerSeg) -> AbstractContextManager[None]:
    """Inside, norms are the models' own."""
    lvlm = steerseg.lvlm
    return undone(
        lambda: norms.separate_norms(lvlm.model),
        lambda: lvlm.device.type == "cuda" and norms.fuse_norms(lvlm.model),
    )


def separate_rotations(steerseg: SteerSeg) -> AbstractContextManager[None]:
    """Inside, rotary positions are the models' own."""
    model = steerseg.lvlm.model
    return undone(
        lambda: rotations.separate_rotations(model),
        lambda: steerseg.lvlm.device.type == "cuda" and rotations.fuse_rotations(model),
    )


def passes_of_torch() -> AbstractContextManager[None]:
    """Inside, gates, single norms and written tokens take as many passes as torch needs."""
    return attribute(layer_passes, "kernels_work", lambda *_: False)


def windows_by_torch() -> AbstractContextManager[None]:
    """Inside, torch attends within windows, of the vision tower and of SAM 2."""
    return attribute(window_attention, "kernel_works", lambda *_: False)


def nothing_planned() -> AbstractContextManager[None]:
    """Inside, cuDNN plans no attention."""
    return attribute(planned_attention, "cudnn_attends", lambda *_: False)


SEPARATE: dict[str, Callable[[SteerSeg], AbstractContextManager[None]]] = {
    "norms of many kernels": separate_norms,
    "rotations of many kernels": separate_rotations,
    "passes of torch": lambda steerseg: passes_of_torch(),
}
"""Ways to have a language model's layers run as transformers wrote them."""


@contextmanager
def cudnn_attention() -> Iterator[None]:
    """Inside, SDPA may choose cuDNN, which makes a plan for each length."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _resized_on_host(frames: Any, height: int, width: int, _: torch.device) -> torch.Tensor:
    return resize_frames(frames, height, width, torch.device("cpu"))


def resized_on_host() -> AbstractContextManager[None]:
    """Inside, pictures are resized by the CPU."""
    return attribute(lvlm_base, "resize_frames", _resized_on_host)


def measure_changes(records: Records, steerseg: SteerSeg, video: Video) -> None:
    """Every stage with and without what made it faster; the best first, and every way once before it is timed."""
    config = steerseg.config
    ways: dict[str, Callable[[], Any]] = {
        "": contextlib.nullcontext,
        "windows in turn": lambda: pieces_in_turn(steerseg),
        **{name: functools.partial(separate, steerseg) for name, separate in SEPARATE.items()},
        "resized on the host": resized_on_host,
        "windows by torch": windows_by_torch,
        "nothing planned": nothing_planned,
    }
    for name, way in ways.items():
        with way():
            _timed(records, "see", name, lambda: steerseg.encode_keyframes(video, config), repeat=2)

    _measure_padding(records)
    _measure_gaps(records, steerseg, video)
    seen = steerseg.encode(video, config)
    _measure_cold_grounding(records, steerseg, seen)
    _measure_answers(records, steerseg, seen)
    lengths = itertools.count(1)
    readings: dict[str, Callable[[], Any]] = {
        "": contextlib.nullcontext,
        "planned by cuDNN": cudnn_attention,
        "nothing captured": lambda: attribute(steerseg.lvlm.reader.prefix_reader.calls, "enabled", False),
    }
    for name, way in readings.items():
        with way():
            for attempt in range(3):
                longer = _EXPRESSION + "." * next(lengths)  # a length that was not seen before
                label = f"{name}{', ' if name else ''}length {attempt + 1}"
                _timed(records, "further reason", label, functools.partial(_reason, steerseg, seen, longer))
                _timed(records, "further ground", label, functools.partial(_ground, steerseg, seen, longer))

    maps = _ground(steerseg, seen, _EXPRESSION)
    tracker = steerseg.tracker
    measure_encoding(records, tracker, video)
    with windows_by_torch():
        measure_encoding(records, tracker, video, {"windows by torch": True})
    with nothing_planned():
        measure_encoding(records, tracker, video, {"nothing planned": True})
    measure_memory_attention(records, tracker)
    tracking_ways: dict[str, dict[str, Any]] = {
        "": {},
        "the package's own passes": {"fused": False},
        "nothing captured": {"captures": False},
        "each answer brought at once": {"in_blocks": False},
    }
    if records.device.type == "cuda":
        tracking_ways["memories by cuDNN"] = {"backend": BACKENDS["cuDNN"]}

    def find_and_track(name: str, measures: dict[str, Any]) -> None:
        with tracker_that(tracker, **measures):
            find = functools.partial(steerseg.find_candidates, seen, maps, config)
            found = find()
            find()
            _timed(records, "find", name, find, repeat=3)
            ranking = steerseg.rank(found, maps, config)
            track = functools.partial(steerseg.track, seen, found, ranking)
            track()
            track()
            _timed(records, "track", name, track, repeat=3, objects=len(ranking))

    for name, measures in tracking_ways.items():
        records.attempt(f"changes, track: {name}", functools.partial(find_and_track, name, measures))
    sam2 = tracker.segmenter
    calls = sam2.captured_steps if isinstance(sam2, Sam2) else None
    if calls is not None:
        records.put(
            "captured steps",
            graphs=len(calls),
            replays=calls.replays,
            seconds=calls.capture_seconds,
            peak_gb=0.0,
            still_used=calls.enabled,
        )


def _measure_gaps(records: Records, steerseg: SteerSeg, video: Video) -> None:
    """A cold proposal, with frames encoded in an answer's gaps and without."""

    def cold() -> None:
        steerseg.forget()
        steerseg.propose(video, _EXPRESSION)

    with discs_encoded(steerseg.tracker.segmenter.logits_side):
        for name, batches in (("", frame_encoder._BATCHES_A_GAP), ("nothing in gaps", 0)):
            with attribute(frame_encoder, "_BATCHES_A_GAP", batches):
                for _ in range(2):
                    cold()
                _timed(records, "cold", name, cold, repeat=7)


def _measure_padding(records: Records) -> None:
    """The products of a vision tower's gated MLPs at Qwen2.5-VL's inner width, and at the padded one."""
    dtype = torch.bfloat16 if records.device.type == "cuda" else torch.float32
    tokens, layers = (16 * 1560, 32) if records.device.type == "cuda" else (64, 1)
    for name, width in (("not padded", 3420), ("padded", 3456)):
        inner = torch.zeros(width, 1280, device=records.device, dtype=dtype)
        outer = torch.zeros(1280, width, device=records.device, dtype=dtype)
        states = torch.zeros(tokens, 1280, device=records.device, dtype=dtype)

        def multiply(
            inner: torch.Tensor = inner, outer: torch.Tensor = outer, states: torch.Tensor = states
        ) -> torch.Tensor:
            for _ in range(layers):
                gate = F.linear(states, inner)
                F.linear(states, inner)
                result = F.linear(gate, outer)
            return result

        multiply()
        _timed(records, "products", name, multiply, repeat=3)


def _measure_cold_grounding(records: Records, steerseg: SteerSeg, seen: VideoFeatures) -> None:
    """Grounding where nothing is kept of a video, so that all layers read all tokens."""
    ways: dict[str, Callable[[], Any]] = {
        "": contextlib.nullcontext,
        **{name: functools.partial(separate, steerseg) for name, separate in SEPARATE.items()},
        "rollout by chunks": lambda: attribute(rollout, "kernels_work", lambda query: False),
    }
    steerseg._prefixes.clear()
    with attribute(steerseg._prefixes, "budget", 0):
        for name, way in ways.items():
            with way():
                work = functools.partial(_ground, steerseg, seen, _EXPRESSION)
                work()
                _timed(records, "cold ground", name, work, repeat=2)


def _measure_answers(records: Records, steerseg: SteerSeg, seen: VideoFeatures) -> None:
    """An answer by captured steps, by other kernels and by the library's own way, and four together."""
    question, decoder = steerseg.texts.reasoning_question(_EXPRESSION), steerseg.lvlm.decoder
    four = [(question, seen.context.video, None)] * 4
    together = functools.partial(
        steerseg.lvlm.answer_together,
        four,
        max_new_tokens=steerseg.config.max_new_tokens,
        complete=lambda _: False,
    )
    together()
    _timed(records, "answer", "four together", together, repeat=2)
    decoder.forget()
    with attribute(one_query, "kernels_work", lambda *_: False):
        _measure_answer(records, steerseg, seen, question, {"attending by products": True})
    decoder.forget()
    with attribute(joined, "_JOINT_TOKENS", 0):
        _measure_answer(records, steerseg, seen, question, {"projected apart": True})
    decoder.forget()
    with passes_of_torch():
        _measure_answer(records, steerseg, seen, question, {"passes of torch": True})
    decoder.forget()
    _measure_answer(records, steerseg, seen, question, {"": True, "by transformers": False})


def _measure_answer(
    records: Records, steerseg: SteerSeg, seen: VideoFeatures, question: str, ways: dict[str, bool]
) -> None:
    """An answer by each way, which says whether our own decoder decodes."""
    for name, own in ways.items():
        work = functools.partial(
            steerseg.lvlm.answer,
            question,
            seen.context.video,
            max_new_tokens=steerseg.config.max_new_tokens,
            own_decoder=own,
        )
        work()
        _timed(records, "answer", name, work, repeat=2)


def _timed(records: Records, stage: str, way: str, work: Callable[[], Any], **more: Any) -> None:
    records.timed(f"changes, {stage}{': ' if way else ''}{way}", work, **more)


def _reason(steerseg: SteerSeg, seen: VideoFeatures, expression: str) -> Any:
    return steerseg.reason(seen, expression, dataclasses.replace(steerseg.config, reasoning=True)).attributes


def _ground(steerseg: SteerSeg, seen: VideoFeatures, expression: str) -> Any:
    return steerseg.ground(seen, expression, _ATTRIBUTES, steerseg.config, steerseg.soft_prompts)
