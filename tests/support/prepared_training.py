"""A training whose examples are prepared: films of two sizes, in a refinement's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml_backend.models.examples import Pool
from ml_backend.models.messages import MediaFile, ModelAnswer, ModelRequest, PreparedExample, PrepareRequest
from ml_backend.models.messages import TrainRequest as Training
from tests.support.refinement_world import FRAMES, HEIGHT, WIDTH, example, film

Ask = Callable[[ModelRequest], ModelAnswer]


def prepare(ask: Ask, root: Path, films: int = 5) -> Training:
    """Have examples prepared; every second film is twice as wide, so that the rows of a step cost unlike much."""
    keys = []
    for number in range(films):
        frames, masks = film(number)
        if number % 2:
            frames, masks = np.tile(frames, (1, 1, 2, 1)), np.pad(masks, ((0, 0), (0, 0), (0, WIDTH)))
        folder = _write(root / f"film{number}", frames)
        made = example(number, masks, num_frames=FRAMES, height=HEIGHT, width=frames.shape[2])
        answer = ask(PrepareRequest(made, MediaFile(folder, 5.0), root / "prepared", root / "features"))
        assert isinstance(answer, PreparedExample)
        assert answer.teaches
        keys.append(made.key)
    return Training("candidate", root / "prepared", root / "features", {Pool.NEW: tuple(keys)}, None, 1e9)


def _write(folder: Path, frames: NDArray[np.uint8]) -> Path:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:03d}.png")
    return folder
