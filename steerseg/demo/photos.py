"""The pack of background photographs: views of panoramas and of textures, all CC0.

Scenes refer to views by their index, so that workers pass numbers around; the pixels are read once where
scenes are drawn. Whole sources are held out: no training scene shows a place that val or test scenes show.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from steerseg.demo.sheet import ASSETS

VIEW = (256, 384)
"""Height and width of a view in pixels."""
COLUMNS = 12
"""Views in a row of the sheet."""

PhotoHalf = Literal["train", "heldout"]


@dataclass(frozen=True)
class PhotoSource:
    """One photograph and how many views of it the pack holds.

    Attributes:
        name: Package and name in it.
        origin: Its origin and licence.
        heldout: Whether only val and test splits see it.
        views: Number of views.
    """

    name: str
    origin: str
    heldout: bool
    views: int


@lru_cache(maxsize=1)
def photo_sources() -> tuple[PhotoSource, ...]:
    """The sources in the order of their views; reads no pixels."""
    described = json.loads((ASSETS / "photos.json").read_text(encoding="utf-8"))
    return tuple(PhotoSource(**source) for source in described["sources"])


@lru_cache(maxsize=2)
def photo_views(half: PhotoHalf) -> NDArray[np.int64]:
    """Indices of the views that a half of the pack holds."""
    heldout = np.repeat([s.heldout for s in photo_sources()], [s.views for s in photo_sources()])
    return np.flatnonzero(heldout == (half == "heldout"))


@dataclass(frozen=True)
class Photos:
    """The views' pixels.

    Attributes:
        images: uint8 tensor (views, 3, *VIEW), RGB.
    """

    images: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def on(self, device: torch.device) -> Tensor:
        """``images`` on a device; copied there once."""
        if device not in self._copies:
            self._copies[device] = self.images.to(device)
        return self._copies[device]


@lru_cache(maxsize=1)
def load_photos() -> Photos:
    """Read the shipped sheet; once in a process."""
    height, width = VIEW
    count = sum(source.views for source in photo_sources())
    with Image.open(ASSETS / "photos.webp") as image:
        pixels = np.asarray(image.convert("RGB"))
    rows = pixels.shape[0] // height
    tiles = pixels.reshape(rows, height, COLUMNS, width, 3).transpose(0, 2, 4, 1, 3)
    return Photos(torch.from_numpy(tiles.reshape(-1, 3, height, width)[:count].copy()))
