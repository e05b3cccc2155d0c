"""The examples of a training step: each pool's share, in an order that the seed alone decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ml_backend.models.examples import Pool
from steerseg.config import RefinementRecipe
from steerseg.errors import ConfigError


def batch_of(
    pools: Mapping[Pool, Sequence[str]], step: int, recipe: RefinementRecipe, seed: Sequence[int]
) -> list[str]:
    """The examples of one step: each pool's share, every example of a pool once before any comes again.

    Args:
        pools: Keys of the examples.
        step: The step, from 0; nothing else than this and ``seed`` decides what is drawn.
        recipe: Size and shares of a batch.
        seed: Seed of the order.

    Raises:
        ConfigError: No pool has an example.
    """
    wanted = {
        Pool.NEW: recipe.new_share,
        Pool.OLD: recipe.old_share,
        Pool.PRESET: max(0.0, 1.0 - recipe.new_share - recipe.old_share),
    }
    present = {pool: share for pool, share in wanted.items() if pools.get(pool) and share > 0}
    if not present:
        present = {pool: 1.0 for pool in wanted if pools.get(pool)}
    if not present:
        raise ConfigError("there is no example to learn from")
    chosen = []
    for number, (pool, count) in enumerate(_portions(present, recipe.batch).items()):
        keys = pools[pool]
        for draw in range(step * count, (step + 1) * count):
            epoch, index = divmod(draw, len(keys))
            order = np.random.default_rng((*seed, number, epoch)).permutation(len(keys))
            chosen.append(keys[int(order[index])])
    return chosen


def _portions(shares: Mapping[Pool, float], total: int) -> dict[Pool, int]:
    """Split ``total`` by shares, at least one each where there is room."""
    whole = sum(shares.values())
    counts = {pool: max(1, round(total * share / whole)) for pool, share in shares.items()}
    first = next(iter(counts))
    counts[first] = max(1, counts[first] + total - sum(counts.values()))
    return counts
