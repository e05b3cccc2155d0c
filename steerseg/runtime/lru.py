"""A cache that drops the least recently used values first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Keeps values up to a capacity; the least recently used go first.

    It takes no lock: whoever shares it between threads guards it.

    Args:
        capacity: Largest sum of the weights of all values. The newest value stays even where it alone is heavier.
        weigh: The weight of a value, for example its bytes; by default each value counts as one.
        on_evict: Called with key and value of each value that is dropped for want of room.

    Example:
        >>> cache = LruCache[str, int](2)
        >>> cache.put("a", 1); cache.put("b", 2); cache.get("a"); cache.put("c", 3)
        1
        >>> list(cache)
        ['a', 'c']
    """

    def __init__(
        self,
        capacity: float,
        *,
        weigh: Callable[[Value], float] = lambda _: 1,
        on_evict: Callable[[Key, Value], None] | None = None,
    ) -> None:
        self.capacity = capacity
        self._weigh = weigh
        self._on_evict = on_evict
        self._values: OrderedDict[Key, Value] = OrderedDict()

    @property
    def weight(self) -> float:
        """The weights of all values, added up; they are asked anew, since some values grow."""
        return sum(self._weigh(value) for value in self._values.values())

    def get(self, key: Key) -> Value | None:
        """The value of a key, which counts as used now; ``None`` where there is none."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def peek(self, key: Key) -> Value | None:
        """The value of a key without counting as a use; ``None`` where there is none."""
        return self._values.get(key)

    def values(self) -> Iterator[Value]:
        """All values, the oldest first, without counting as a use."""
        return iter(self._values.values())

    def put(self, key: Key, value: Value) -> None:
        """Keep a value as the newest one, and drop the oldest ones until the rest fits."""
        self._values[key] = value
        self._values.move_to_end(key)
        weight = self.weight
        while len(self._values) > 1 and weight > self.capacity:
            oldest = next(iter(self._values))
            dropped = self._values.pop(oldest)
            weight -= self._weigh(dropped)
            if self._on_evict is not None:
                self._on_evict(oldest, dropped)

    def shrink(self, weight: float) -> None:
        """Drop the oldest values until the rest weighs no more, without calling ``on_evict``."""
        while self._values and self.weight > weight:
            self._values.popitem(last=False)

    def pop(self, key: Key) -> Value | None:
        """Take a value out; ``None`` where there is none."""
        return self._values.pop(key, None)

    def clear(self) -> None:
        """Drop everything without calling ``on_evict``."""
        self._values.clear()

    def items(self) -> Iterator[tuple[Key, Value]]:
        """Keys and values as they are now, the least recently used first."""
        return iter(list(self._values.items()))

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[Key]:
        """The keys as they are now, the least recently used first."""
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)
