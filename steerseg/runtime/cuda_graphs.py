"""Calls of one function of tensors as replays of CUDA graphs, for work of many small kernels on few numbers.

Such a call costs the host more than the device: a thousand launches take ten milliseconds where the kernels run for
two. A graph launches them all at once, but reads and writes the same memory each time. So inputs are copied into
buffers, the graph is replayed, and its outputs are copied out.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from steerseg.runtime.lru import LruCache
from steerseg.runtime.startup import paused

log = logging.getLogger(__name__)

_ROWS = (1, 2, 4, 6, 8)
"""A call is filled up to one of so many rows, so that few graphs serve many numbers of rows.

More rows than the last are several calls, each of the largest number that they fill, and one of the rest."""

_MANY_ROWS = (32, 16)
"""Rows of a call that are never filled up, on a GPU that has room for so many."""

_ROOMY = 40 << 30  # bytes of its memory
_MOST_GRAPHS = 128
_MOST_FAILURES = 3
_TOLERANCE = 1e-2  # of the norm: the same kernels run twice, but libraries may choose others while capturing

Function = Callable[[Hashable, Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]
"""A function that can be captured: of a key for all that is no tensor, of tensors of N rows, and of tensors that all
rows share."""


class Replay(Protocol):
    """A recorded run, which can be repeated from and to the same memory."""

    def replay(self) -> None:
        """Run once more."""
        ...


@dataclass(frozen=True)
class _Recorded:
    """A captured form: the run, and the tensors that it writes."""

    run: Replay
    outputs: tuple[Tensor, ...]


class CapturedCalls:
    """Calls one function; on a GPU, calls of a form that was seen before are replayed.

    The first call of a form runs as it is, the second is captured and compared, and later ones are replayed. A form
    that cannot be captured, or whose replay gives other results, goes on running as it is.

    Args:
        function: See :data:`Function`. All else that it reads, such as weights, must stay where it is.
            Its outputs have a row for each row of the first inputs, and rows do not depend on each other.
        sights: Number of the call of a form that is captured, from 1.
        most: How many forms are kept, longest unused dropped first.
        filled: Whether calls are filled up to a few numbers of rows; each number has a form of its own where not.
        fresh: Whether outputs are copies; where not, the next call may overwrite them.

    Attributes:
        enabled: Whether anything is captured and replayed at all.
        sights: As above; may be changed.
        capture_seconds: Seconds that capturing has taken so far.
        replays: How many calls were replays.
    """

    def __init__(
        self,
        function: Function,
        *,
        sights: int = 2,
        most: int = _MOST_GRAPHS,
        filled: bool = True,
        fresh: bool = True,
    ) -> None:
        self._function = function
        self._filled, self._fresh = filled, fresh
        self._recorded: LruCache[Hashable, _Recorded] = LruCache(most)
        self._seen: dict[Hashable, int] = {}
        self._refused: set[Hashable] = set()
        self._buffers: dict[Hashable, Tensor] = {}
        self._failures = 0
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self.sights = sights
        self.enabled = True
        self.capture_seconds = 0.0
        self.replays = 0

    def __len__(self) -> int:
        """Number of captured forms."""
        return len(self._recorded)

    @torch.inference_mode()
    def __call__(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Call the function, or replay it.

        Args:
            key: Everything that is no tensor.
            rows: Tensors (N, ...) of one number of rows.
            shared: Tensors that all rows share.

        Returns:
            The function's outputs.
        """
        sighted: set[Hashable] = set()
        sizes = self._sizes(len(rows[0]), rows[0].device)
        if len(sizes) == 1:
            return self._call(key, rows, shared, sighted)
        calls = [
            self._call(key, part, shared, sighted)
            for part in zip(*(torch.split(row, sizes) for row in rows), strict=True)
        ]
        return tuple(map(torch.cat, zip(*calls, strict=True)))

    def _sizes(self, count: int, device: torch.device) -> list[int]:
        """How many rows go into each call."""
        if not self._filled or not self._captures_on(device):
            return [count]
        sizes: list[int] = []
        for size in (*(_MANY_ROWS if _is_roomy(device) else ()), _ROWS[-1]):
            sizes += [size] * (count // size)
            count %= size
        return [*sizes, count] if count else sizes

    def _call(
        self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor], sighted: set[Hashable]
    ) -> tuple[Tensor, ...]:
        """A call of no more rows than one graph serves.

        Parts of one call are one sight of their form, which is noted in ``sighted``: a form that comes once a video is
        worth no capture.
        """
        if not self._captures_on(rows[0].device):
            return self._function(key, rows, shared)
        count = len(rows[0])
        size = next((size for size in _ROWS if size >= count), count) if self._filled else count
        form = (
            key,
            size,
            tuple((tuple(part.shape[1:]), part.dtype) for part in rows),
            tuple((tuple(part.shape), part.dtype) for part in shared),
        )
        recorded = self._recorded.get(form)
        if recorded is None:
            self._seen[form] = self._seen.get(form, 0) + (form not in sighted)
            sighted.add(form)
            if form in self._refused or self._seen[form] < self.sights:
                return self._function(key, rows, shared)
            recorded = self._record(form, key, size, rows, shared)
            if recorded is None:
                return self._function(key, rows, shared)
        self._fill(size, rows, shared)
        recorded.run.replay()
        self.replays += 1
        outputs = tuple(output[:count] for output in recorded.outputs)
        return tuple(output.clone() for output in outputs) if self._fresh else outputs

    def forget(self) -> None:
        """Drop all that was captured."""
        self._recorded.clear()
        self._buffers.clear()
        self._seen.clear()

    # ------------------------------------------------------------------ buffers

    def _buffer(self, name: Hashable, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Forms share their buffers, which hold one call at a time."""
        name = (name, shape, like.dtype)
        if name not in self._buffers:
            self._buffers[name] = torch.zeros(shape, dtype=like.dtype, device=like.device)
        return self._buffers[name]

    def _fill(
        self, size: int, rows: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Copy the inputs into their buffers; rows beyond theirs keep what they had, which no one reads."""
        first = [
            self._buffer(("rows", index), (size, *part.shape[1:]), part) for index, part in enumerate(rows)
        ]
        second = [
            self._buffer(("shared", index), tuple(part.shape), part) for index, part in enumerate(shared)
        ]
        filled = [buffer[: len(part)] for buffer, part in zip(first, rows, strict=True)]
        _copy_all([*filled, *second], [*rows, *shared])
        return first, second

    # ------------------------------------------------------------------ recording

    def _captures_on(self, device: torch.device) -> bool:
        return self.enabled and self._supports(device)

    def _supports(self, device: torch.device) -> bool:
        return device.type == "cuda"

    def _record(
        self, form: Hashable, key: Hashable, size: int, rows: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> _Recorded | None:
        """Capture a form; ``None``, and never again, where that does not work."""
        start = time.perf_counter()
        first, second = self._fill(size, rows, shared)
        try:
            work = functools.partial(self._function, key, first, second)
            try:
                recorded, expected = self._capture(work, rows[0].device)
            except torch.OutOfMemoryError:  # which gives back no unused memory while something is captured
                torch.cuda.empty_cache()
                recorded, expected = self._capture(work, rows[0].device)
            for output in recorded.outputs:
                output.zero_()
            recorded.run.replay()
            off = max(
                _distance(a[: len(rows[0])], b[: len(rows[0])])
                for a, b in zip(recorded.outputs, expected, strict=True)
            )
            if not off <= _TOLERANCE:  # NaN is no answer either
                raise RuntimeError(f"its replay differs by {off:.1e} from the captured run")
        except RuntimeError as error:
            self._refused.add(form)
            self._failures += not isinstance(error, torch.OutOfMemoryError)
            self.enabled = self._failures < _MOST_FAILURES
            log.warning("a step runs kernel by kernel, since it could not be captured: %s", error)
            return None
        finally:
            self.capture_seconds += time.perf_counter() - start
        self._recorded.put(form, recorded)
        return recorded

    def _capture(
        self, work: Callable[[], tuple[Tensor, ...]], device: torch.device
    ) -> tuple[_Recorded, tuple[Tensor, ...]]:
        """The captured work, and its outputs of a run before."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        if not self._recorded:  # a pool ends with its last graph
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            # Libraries make their work spaces outside of the capture. The work may give the same memory once more.
            expected = tuple(output.clone() for output in work())
            # Not by `torch.cuda.graph`, which empties the allocator's cache each time. One pool for all, since they
            # never run at the same time. Garbage waits: a graph among it, of a dropped model, would end the capture.
            with paused():
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    outputs = work()
                finally:
                    graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(self._stream)
        return _Recorded(graph, outputs), expected


@functools.cache
def _is_roomy(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[1] >= _ROOMY


def _copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors: all that lie alike by one kernel for each of their types, and the others one by one."""
    alike: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if target.dtype == source.dtype and target.is_contiguous() and source.is_contiguous():
            to, of = alike.setdefault(target.dtype, ([], []))
            to.append(target)
            of.append(source)
        else:
            target.copy_(source)
    for to, of in alike.values():
        torch._foreach_copy_(to, of)


def _distance(result: Tensor, expected: Tensor) -> float:
    """Norm of the difference as a share of the norm."""
    norm, off = (
        torch.linalg.vector_norm(part, dtype=torch.float32) for part in (expected, result - expected)
    )
    return float(off / norm.clamp_min(torch.finfo(torch.float32).tiny))
