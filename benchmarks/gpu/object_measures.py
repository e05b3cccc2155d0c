"""What single measures bring to many objects: all of them, each one left out, and none, in one process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.changes import attribute
from benchmarks.gpu.records import Records
from steerseg.runtime.cuda_graphs import CapturedCalls
from steerseg.segmenters import fused, hf_step, sam2_memory_attention, sam2_step
from steerseg.segmenters.hf import EdgeTam
from steerseg.segmenters.hf_memory_attention import FusedVideoMemoryAttention
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Candidate, EncodedVideo, Prompt, Tracker

_CAPTURED_CALL = CapturedCalls.__call__
_EIGHT = 8

Way = Callable[[], AbstractContextManager[Any]]


def _eight_rows_at_most(calls: CapturedCalls, key: Any, rows: Any, shared: Any) -> tuple[Tensor, ...]:
    """More rows than one graph serves run kernel by kernel."""
    if len(rows[0]) > _EIGHT:
        with torch.inference_mode():
            return calls._function(key, rows, shared)
    return _CAPTURED_CALL(calls, key, rows, shared)


def _condense_each(segmenter: EdgeTam, memory: Tensor) -> Tensor:
    """One memory at a time, by the library's perceiver."""
    model = segmenter.model
    tokens = [model.spatial_perceiver(each[None], segmenter._memory_position)[0] for each in memory]
    return torch.cat(tokens).to(segmenter.memory_dtype)


def _lay_out_in_full(
    memories: Sequence[Tensor], encodings: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Memories joined in the wider precision, and rounded then."""
    memory = torch.cat([each.float() for each in memories], dim=1)
    return (memory + torch.cat(list(encodings))).to(dtype), memory.to(dtype)


def _rectify_after(linear: torch.nn.Linear, vectors: Tensor) -> Tensor:
    return F.relu(linear(vectors))


def _project_then_rotate(
    linear: torch.nn.Linear, vectors: Tensor, cos: Tensor, sin: Tensor, count: int
) -> Tensor:
    return fused.rotate(linear(vectors), cos, sin, count)


def _never(_: Any) -> bool:
    return False


def _as_they_are(*_: Any) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def _start_in_turn(tracker: Tracker, encoded: EncodedVideo, prompts: Sequence[Prompt]) -> list[Candidate]:
    return [tracker.start(encoded, [prompt]) for prompt in prompts]


SAM2_MEASURES: dict[str, Way] = {
    "graphs of eight rows": lambda: attribute(CapturedCalls, "__call__", _eight_rows_at_most),
    "prompts decoded together": lambda: attribute(Tracker, "start_each", _start_in_turn),
    "one frame, computed once": lambda: attribute(sam2_step, "share_a_frame", lambda levels: False),
    "heads in fewer passes": lambda: attribute(sam2_step, "supported", lambda model: False),
    "keys rotated as projected": lambda: attribute(
        sam2_memory_attention, "project_and_rotate", _project_then_rotate
    ),
    "rectified as projected": lambda: attribute(sam2_memory_attention, "project_and_rectify", _rectify_after),
    "memories laid out at once": lambda: attribute(sam2_memory_attention, "_lay_out", _lay_out_in_full),
}
EDGETAM_MEASURES: dict[str, Way] = {
    "graphs of eight rows": SAM2_MEASURES["graphs of eight rows"],
    "prompts decoded together": SAM2_MEASURES["prompts decoded together"],
    "one frame, computed once": lambda: attribute(hf_step, "share_a_frame", lambda levels: False),
    "fewer passes over memory": lambda: attribute(FusedVideoMemoryAttention, "supported", _never),
    "norms of one kernel": lambda: attribute(hf_step, "norms_in_one_pass", _as_they_are),
    "memories condensed together": lambda: attribute(EdgeTam, "_compress", _condense_each),
}


def measures_of(tracker: Tracker) -> dict[str, Way]:
    """Contexts that leave one measure out each, for a tracker's segmenter."""
    if isinstance(tracker.segmenter, Sam2):
        return SAM2_MEASURES
    return EDGETAM_MEASURES


@contextlib.contextmanager
def without(tracker: Tracker, ways: Sequence[Way]) -> Iterator[None]:
    """Inside, measures are left out, and steps are captured anew."""
    segmenter = tracker.segmenter
    with contextlib.ExitStack() as stack:
        for way in ways:
            stack.enter_context(way())
        segmenter.forget_steps()
        # A step calls what its segmenter handed to it when it was made.
        step = getattr(segmenter, "_step", None)
        if isinstance(segmenter, EdgeTam):
            stack.enter_context(attribute(step, "_compress", segmenter._compress))
        try:
            yield
        finally:
            segmenter.forget_steps()


def measure_measures(
    records: Records,
    tracker: Tracker,
    follow: Callable[[], object],
    masks: Callable[[], Tensor],
    frames: int,
    count: int,
) -> None:
    """Frames a second with all measures, without each one, without all, and with all again; and how masks agree.

    Args:
        records: Where the numbers go.
        tracker: The tracker.
        follow: Tracks the objects.
        masks: Tracks them, too; (N, T, h, w) logits.
        frames: Of the video.
        count: Of the objects.
    """
    measures = measures_of(tracker)
    ways: dict[str, Sequence[Way]] = {
        "all": (),
        **{f"without: {name}": (way,) for name, way in measures.items()},
        "none": tuple(measures.values()),
        "all again": (),
    }
    found: dict[str, Tensor] = {}

    def one(name: str, left_out: Sequence[Way]) -> None:
        with without(tracker, left_out):
            follow()  # most steps are captured; the median of three is without those of a second sight
            label = f"measures at {count} objects, {name}"
            _, seconds = records.timed(label, follow, repeat=3, objects=count)
            records.put(f"{label}, rate", frames_a_second=frames / seconds, objects=count)
            if name in ("all", "none"):
                found[name] = masks() > 0

    for name, left_out in ways.items():
        records.attempt(f"measures at {count} objects, {name}", functools.partial(one, name, left_out))
    if len(found) == 2:
        now, before = found["all"], found["none"]
        both, either = (now & before).sum((-1, -2)), (now | before).sum((-1, -2))
        overlap = torch.where(either > 0, both / either.clamp_min(1), 1.0)
        records.put(
            f"measures at {count} objects, masks with all beside none", mean_iou=float(overlap.mean())
        )
