"""What a text model made of the beginning of a chat, kept for further questions about the same vision.

With the soft prompt before the vision, everything up to the last visual token is the same for every expression. Its
keys and values stand for it in the model's attention, and its queries belong to the rollout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class Prefix:
    """The first P tokens of B chats of one length.

    Attributes:
        ids: (B, P) the tokens.
        soft_prompt: (n, d) the soft prompt among them; ``None`` where there is none.
        keys: Of each text layer from the bottom on, as many as were run: (B, H_kv, P, d).
        values: The same.
        queries: Of the layers that were asked for: (B, H, P, d).
    """

    ids: torch.Tensor
    soft_prompt: torch.Tensor | None
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    queries: Mapping[int, torch.Tensor]

    @property
    def length(self) -> int:
        """P."""
        return self.ids.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(part.nbytes for part in (*self.keys, *self.values, *self.queries.values()))

    def begins(self, ids: torch.Tensor, soft_prompt: torch.Tensor | None) -> bool:
        """Whether chats of these tokens (B, S), with this soft prompt, begin with it."""
        if ids.shape[0] != self.ids.shape[0] or ids.shape[1] <= self.length:
            return False
        if (soft_prompt is None) != (self.soft_prompt is None):
            return False
        if soft_prompt is not None and self.soft_prompt is not None:
            same = soft_prompt.shape == self.soft_prompt.shape and torch.equal(soft_prompt, self.soft_prompt)
            if not same:
                return False
        return torch.equal(ids[:, : self.length], self.ids)

    def cache(self) -> DynamicCache:
        """A cache to read on with. What is read goes into it and not into the prefix."""
        cache = DynamicCache()
        for keys, values in zip(self.keys, self.values, strict=True):
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values  # never written to: more is joined to a copy
            cache.layers.append(layer)
        return cache


class PrefixStore:
    """Prefixes of the chats about some videos, up to a number of bytes.

    Every pass over a video needs all of its prefixes in turn. So they are kept and dropped by owner: where room is
    wanted, what other owners have is dropped first, longest unused first, and nothing of the owner itself.

    Args:
        budget: Most bytes that are kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[Hashable, dict[Hashable, Prefix]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(prefix.nbytes for parts in self._kept.values() for prefix in parts.values())

    def find(self, owner: Hashable, part: Hashable) -> Prefix | None:
        """What is kept for a part of the passes of ``owner``."""
        if owner not in self._kept:
            return None
        self._kept.move_to_end(owner)
        return self._kept[owner].get(part)

    def make_room(self, owner: Hashable, part: Hashable, nbytes: int) -> bool:
        """Drop what others have until ``nbytes`` fit in; ``False``, and nothing is dropped, where they never will."""
        mine = self._kept.get(owner, {})
        own = sum(prefix.nbytes for name, prefix in mine.items() if name != part)
        if own + nbytes > self.budget:
            return False
        mine.pop(part, None)
        while self.nbytes + nbytes > self.budget:
            oldest = next(other for other in self._kept if other != owner)
            del self._kept[oldest]
        return True

    def keep(self, owner: Hashable, part: Hashable, prefix: Prefix) -> None:
        """Keep a prefix for which there is room."""
        self._kept.setdefault(owner, {})[part] = prefix
        self._kept.move_to_end(owner)

    def drop(self, video: Hashable) -> None:
        """Drop what belongs to a video."""
        for owner in [owner for owner in self._kept if isinstance(owner, tuple) and owner[0] == video]:
            del self._kept[owner]

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()


@dataclass(frozen=True)
class PrefixSlot:
    """Where a pass looks for its prefix, and leaves it.

    Attributes:
        store: What keeps them.
        owner: What all passes of one kind over one video share, soft prompts included.
        part: Which of these passes it is.
    """

    store: PrefixStore
    owner: Hashable
    part: Hashable


@dataclass(frozen=True)
class PrefixShelf:
    """The prefixes of one video.

    Attributes:
        store: What keeps them.
        video: The video, and which of its frames are seen.
    """

    store: PrefixStore
    video: Hashable

    def slot(self, passes: Hashable, part: Hashable) -> PrefixSlot:
        """The place of one of some passes, which are told apart by a name or by the soft prompts in them."""
        return PrefixSlot(self.store, (self.video, passes), part)


def default_budget(device: torch.device) -> int:
    """Bytes for prefixes: on a GPU a third of what is free beside the weights, at most 6 GiB; little on a CPU."""
    if device.type != "cuda":
        return 256 << 20
    free, _ = torch.cuda.mem_get_info(device)
    return min(6 << 30, free // 3)
