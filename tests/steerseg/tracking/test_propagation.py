"""Which paths are tracked together."""

from __future__ import annotations

from typing import Any

from steerseg.tracking.memory import Path
from steerseg.tracking.propagation import batches_of

ONWARDS, BACK = tuple(range(6, 20)), tuple(range(6, -1, -1))


def path(owner: int, frames: tuple[int, ...], prompted: tuple[int, ...] = (0,)) -> Path:
    memories: dict[int, Any] = dict.fromkeys(prompted)
    return Path(owner, frames, memories)


def test_few_paths_go_both_ways_in_one_batch() -> None:
    paths = [path(owner, frames) for owner in range(3) for frames in (ONWARDS, BACK)]
    (batch,) = batches_of(paths)
    assert len(batch) == 6
    assert all(each in batch for each in paths)


def test_paths_with_other_prompts_have_memory_banks_of_their_own() -> None:
    paths = [path(0, ONWARDS), path(1, ONWARDS, (0, 3)), path(2, BACK)]
    assert batches_of(paths) == [[paths[0], paths[2]], [paths[1]]]


def test_many_paths_over_the_same_frames_are_batches_of_their_own() -> None:
    onwards, back = [path(n, ONWARDS) for n in range(40)], [path(n, BACK) for n in range(40)]
    alone = path(40, ONWARDS[3:])
    batches = batches_of([*onwards, alone, *back])
    assert [len(batch) for batch in batches] == [32, 8, 32, 8, 1]
    assert all(len({each.frames for each in batch}) == 1 for batch in batches)


def test_nothing_is_tracked_without_paths() -> None:
    assert batches_of([]) == []
