"""The beginning of a chat as a text model read it, kept for further questions about the same vision.

With the soft prompt before the vision, everything up to the last visual token is the same for every expression. Its
keys and values stand for it in the model's attention, and its queries belong to the rollout. Of a recurrent layer the
state after it is kept.

Queries are most of it where heads share keys, and are wanted later than keys. Where a GPU has no room to spare, they
are kept in page-locked memory of the host, and brought back while the device reads the rest of the chat.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Cache

from steerseg.lvlm.past import Kept
from steerseg.runtime.memory import free_bytes, to_host

_ROOM_FOR_QUERIES = 16 << 30
"""A GPU with so many bytes for prefixes keeps queries beside keys: 5 GB a video of 16 keyframes by a 7B model."""

_MOST_BYTES = 24 << 30
_MOST_BYTES_OF_KEYS = 6 << 30


def cached(model: nn.Module, cache: Cache) -> dict[str, Cache]:
    """A cache as a keyword of a model's call; the keyword's name changed with transformers 5.24."""
    kind: Any = type(model)
    return {_cache_name(kind): cache}


@functools.cache
def _cache_name(kind: Any) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


class KeptQueries:
    """The queries of a prefix, where they are or out of a GPU's way.

    There they are copied to page-locked memory of the host and back over a stream of their own, while the device
    computes. The device's tensors stay until :meth:`wait`, after which its own stream has their memory at once; what a
    second stream is recorded to use comes back only when the host finds that stream done, two batches later.

    Args:
        queries: By layer: (B, H, P, d).
        offloaded: Whether a GPU's are kept by the host.
    """

    def __init__(self, queries: Mapping[int, torch.Tensor], *, offloaded: bool = True) -> None:
        # As they lie in memory.
        self._here = {layer: query.transpose(1, 2) for layer, query in queries.items()}
        first = next(iter(queries.values()), None)
        self._device = torch.device("cpu") if first is None else first.device
        self._on_host: dict[int, torch.Tensor] = {}
        if offloaded and self._device.type == "cuda":
            stream = _copy_stream(self._device)
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                self._on_host = {layer: to_host(query) for layer, query in self._here.items()}

    def restore(self, length: int) -> dict[int, torch.Tensor]:
        """Begin to copy the queries back, into tensors for whole chats.

        Args:
            length: Tokens of a whole chat.

        Returns:
            By layer (B, H, length, d) on the device. :meth:`wait` comes before the first use, and before they go.
        """
        whole = {}
        for layer, kept in (self._here or self._on_host).items():
            batch, _, heads, depth = kept.shape
            whole[layer] = torch.empty((batch, length, heads, depth), dtype=kept.dtype, device=self._device)
        if self._here:
            for layer, kept in self._here.items():
                whole[layer][:, : kept.shape[1]] = kept
        elif self._on_host:
            stream = _copy_stream(self._device)
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                for layer, kept in self._on_host.items():
                    for row, held in zip(whole[layer], kept, strict=True):
                        row[: len(held)].copy_(held, non_blocking=True)  # in one piece
        return {layer: queries.transpose(1, 2) for layer, queries in whole.items()}

    def wait(self) -> None:
        """Let the device go on only when the copies are complete, and with the host's from then on."""
        if self._on_host:
            torch.cuda.current_stream(self._device).wait_stream(_copy_stream(self._device))
            self._here = {}


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class PrefixSize:
    """Memory that a prefix takes.

    Attributes:
        device: Bytes where the model is.
        host: Bytes of page-locked memory, which is given in powers of two.
    """

    device: int
    host: int

    @classmethod
    def of(cls, keys: int, queries: int, layers: int, *, offloaded: bool) -> PrefixSize:
        """The memory of a prefix.

        Args:
            keys: Bytes of keys and values, and of recurrent layers' states.
            queries: Bytes of queries, of all layers.
            layers: Number of layers with queries.
            offloaded: Whether queries are kept by a GPU's host.
        """
        if not offloaded:
            return cls(keys + queries, 0)
        return cls(keys, layers * 2 ** math.ceil(math.log2(queries // layers)) if layers else 0)


@dataclass(frozen=True)
class Prefix:
    """The first P tokens of B chats of one length.

    Attributes:
        ids: (B, P) the tokens, on the host.
        soft_prompt: (n, d) the soft prompt among them; ``None`` where there is none.
        past: Of each text layer from the bottom on, as many as were run. Passes go on from a copy.
        queries: By wanted layer (B, H, P, d).
        size: Memory that it takes.
    """

    ids: torch.Tensor
    soft_prompt: torch.Tensor | None
    past: tuple[Kept, ...]
    queries: KeptQueries
    size: PrefixSize

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.ids.shape[1]

    def matches(self, ids: torch.Tensor, soft_prompt: torch.Tensor | None) -> bool:
        """Whether chats of these tokens (B, S), with this soft prompt (n, d), begin with it."""
        if ids.shape[0] != self.ids.shape[0] or ids.shape[1] <= self.length:
            return False
        if (soft_prompt is None) != (self.soft_prompt is None):
            return False
        if soft_prompt is not None and self.soft_prompt is not None and soft_prompt is not self.soft_prompt:
            same = soft_prompt.shape == self.soft_prompt.shape and torch.equal(soft_prompt, self.soft_prompt)
            if not same:
                return False
        return torch.equal(ids[:, : self.length], self.ids)


class PrefixStore:
    """Prefixes of the chats about some videos, up to a number of bytes.

    Every pass over a video needs all of its prefixes in turn. So they are kept and dropped by owner, all at once: where
    there is no room, other owners' prefixes are dropped, longest unused first, and never those of the owner itself.

    Args:
        budget: Most bytes that are kept where the model is.
        host_budget: Most bytes of page-locked memory that are kept beside them, where the model is on a GPU.
    """

    def __init__(self, budget: int, host_budget: int = 0) -> None:
        self.budget = budget
        self.host_budget = host_budget
        # No plain LRU cache: two budgets count, and the owner that stores is never dropped.
        self._kept: OrderedDict[Hashable, dict[Hashable, Prefix]] = OrderedDict()

    @property
    def offloads(self) -> bool:
        """Whether a GPU's queries are kept by its host, as its own memory is not enough for those of several videos."""
        return self.budget < _ROOM_FOR_QUERIES

    @property
    def nbytes(self) -> int:
        """Bytes that are kept where the model is."""
        return sum(prefix.size.device for prefix in self._prefixes())

    @property
    def host_nbytes(self) -> int:
        """Bytes of page-locked memory that are kept."""
        return sum(prefix.size.host for prefix in self._prefixes())

    def _prefixes(self) -> Iterator[Prefix]:
        return chain.from_iterable(parts.values() for parts in self._kept.values())

    def find(self, owner: Hashable, part: Hashable) -> Prefix | None:
        """The prefix that is kept for a part of the passes of ``owner``; ``None`` where there is none."""
        if owner not in self._kept:
            return None
        self._kept.move_to_end(owner)
        return self._kept[owner].get(part)

    def make_room(self, owner: Hashable, part: Hashable, size: PrefixSize) -> bool:
        """Drop prefixes of other owners until ``size`` fits in.

        Returns:
            ``False``, and nothing is dropped, where it never will.
        """
        mine = self._kept.get(owner, {})
        own = [prefix.size for name, prefix in mine.items() if name != part]
        if size.device + sum(one.device for one in own) > self.budget:
            return False
        if size.host + sum(one.host for one in own) > self.host_budget:
            return False
        mine.pop(part, None)
        while self.nbytes + size.device > self.budget or self.host_nbytes + size.host > self.host_budget:
            oldest = next(other for other in self._kept if other != owner)
            del self._kept[oldest]
        return True

    def keep(self, owner: Hashable, part: Hashable, prefix: Prefix) -> None:
        """Store a prefix for which room was made."""
        self._kept.setdefault(owner, {})[part] = prefix
        self._kept.move_to_end(owner)

    def drop(self, video: Hashable) -> None:
        """Drop the prefixes of a video."""
        for owner in [owner for owner in self._kept if isinstance(owner, tuple) and owner[0] == video]:
            del self._kept[owner]

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()

    def give_memory(self, _: bool) -> None:
        """Drop everything, and keep half as much on the device from now on; see :meth:`Room.add`."""
        self.clear()
        self.budget //= 2


@dataclass(frozen=True)
class PrefixSlot:
    """Where a pass finds its prefix, and stores it.

    Attributes:
        store: Where it is kept.
        owner: Key of all passes of one kind over one video with the same soft prompts.
        part: Key of the pass among these.
    """

    store: PrefixStore
    owner: Hashable
    part: Hashable


@dataclass(frozen=True)
class VideoPrefixes:
    """The prefixes of one video.

    Attributes:
        store: Where they are kept.
        video: Key of the video and of its frames that are seen.
    """

    store: PrefixStore
    video: Hashable

    def slot(self, passes: Hashable, part: Hashable) -> PrefixSlot:
        """The slot of one pass.

        Args:
            passes: Key of a kind of passes, such as its name, or the digest of the soft prompts in them.
            part: Key of the pass among these.
        """
        return PrefixSlot(self.store, (self.video, passes), part)


def default_budget(device: torch.device) -> int:
    """Bytes for prefixes: on a GPU a third of the free memory, at most 6 GiB if that is not enough for queries too.

    On a CPU it is 256 MiB.
    """
    if device.type != "cuda":
        return 256 << 20
    third = free_bytes(device) // 3
    return min(third, _MOST_BYTES) if third >= _ROOM_FOR_QUERIES else min(third, _MOST_BYTES_OF_KEYS)


def default_host_budget(limit_file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of page-locked memory for prefixes: a quarter of the host's, or of a container's limit.

    Args:
        limit_file: Where the container's limit stands.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = limit_file.read_text().strip() if limit_file.is_file() else "max"
    return (memory if limit == "max" else min(memory, int(limit))) // 4
