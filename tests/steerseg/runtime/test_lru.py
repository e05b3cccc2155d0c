"""The one cache that drops what was used longest ago."""

from __future__ import annotations

from steerseg.runtime.lru import LruCache


def test_the_least_recently_used_goes_first() -> None:
    cache = LruCache[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert list(cache.items()) == [("a", 1), ("c", 3)]
    assert cache.get("b") is None


def test_a_look_is_no_use() -> None:
    cache = LruCache[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.peek("a") == 1
    cache.put("c", 3)
    assert list(cache) == ["b", "c"]


def test_weights_count_and_the_newest_stays() -> None:
    evicted: list[tuple[str, bytes]] = []
    cache = LruCache[str, bytes](5, weigh=len, on_evict=lambda key, value: evicted.append((key, value)))
    cache.put("a", b"12")
    cache.put("b", b"34")
    assert cache.weight == 4
    cache.put("c", b"a heavy one")
    assert list(cache) == ["c"]
    assert evicted == [("a", b"12"), ("b", b"34")]


def test_a_new_value_of_a_key_replaces_the_old_one() -> None:
    cache = LruCache[str, bytes](5, weigh=len)
    cache.put("a", b"1234")
    cache.put("a", b"12")
    assert cache.weight == 2
    assert cache.pop("a") == b"12"
    assert cache.pop("a") is None
    assert cache.weight == 0
    assert len(cache) == 0


def test_a_put_asks_for_each_weight_once_whatever_it_drops() -> None:
    asked: list[bytes] = []

    def weigh(value: bytes) -> int:
        asked.append(value)
        return len(value)

    cache = LruCache[int, bytes](8, weigh=weigh)
    for number in range(8):
        cache.put(number, b"1")
    asked.clear()
    cache.put(8, b"12345678")
    assert list(cache) == [8]
    assert len(asked) == 9 + 8, "the sum, and each that was dropped"


def test_a_value_that_grew_counts_as_it_is_now() -> None:
    cache = LruCache[str, list[int]](3, weigh=len)
    growing = [1]
    cache.put("a", growing)
    growing += [2, 3]
    cache.put("b", [4])
    assert list(cache) == ["b"]


def test_it_shrinks_to_a_weight() -> None:
    cache = LruCache[str, int](10, weigh=lambda value: value)
    for key, value in (("a", 3), ("b", 4), ("c", 2)):
        cache.put(key, value)
    cache.shrink(9)
    assert list(cache) == ["a", "b", "c"]
    cache.shrink(5)
    assert list(cache) == ["c"]
    cache.shrink(1)
    assert list(cache) == []
