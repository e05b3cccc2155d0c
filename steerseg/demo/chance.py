"""Random numbers of the sprite world.

Scenes are drawn again from their seeds, and the demo's weights were trained on them: the order of the draws is part
of the data. A draw more, less or elsewhere changes every scene.
"""

from __future__ import annotations

import numpy as np


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * rng.random()
