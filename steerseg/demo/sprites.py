"""The sprite atlas: pictures, names, groups and colours of the objects that scenes are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from steerseg.demo.colours import main_colour
from steerseg.demo.sheet import ASSETS, split_sheet
from steerseg.errors import ConfigError

STYLES = ("noto", "fluent")
"""The shipped styles."""
FETCHED_STYLES = ("twemoji",)
"""Styles whose pictures are not shipped: see :mod:`steerseg.demo.twemoji`."""
FETCHED = Path("data/sprites-ref/styles")
"""Default folder of the sheets of fetched styles."""


@dataclass(frozen=True)
class Catalogue:
    """The objects without their pictures; cheap to load in worker processes.

    Attributes:
        names: Object index → unique English name.
        groups: Object index → group, e.g. "mammal".
        heldout: (N,) bool: kept for the "unseen objects" split.
        colours: Style → object index → dominant colour word, or "" where there is none.
        palettes: Style → object index → share in [0, 1] of every colour that covers at least a tenth.
        extents: (styles, N, 2) half width and half height of the visible part, relative to half a side.
        styles: Style index → name.

    An object that one of the styles lacks is in none of the lists, so indices hold for these styles only.
    """

    names: tuple[str, ...]
    emoji: tuple[str, ...]
    groups: tuple[str, ...]
    heldout: NDArray[np.bool_]
    colours: tuple[tuple[str, ...], ...]
    palettes: tuple[tuple[dict[str, float], ...], ...]
    extents: NDArray[np.float32]
    styles: tuple[str, ...]

    def index(self, name: str) -> int:
        """The index of the object with this name. Raises ``ValueError`` if there is none."""
        return self.names.index(name)


def _objects() -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads((ASSETS / "objects.json").read_text(encoding="utf-8"))
    return objects


@lru_cache(maxsize=8)
def _measured(style: str) -> dict[str, dict[str, Any]]:
    """Name → extent and colours of the objects that a style has, in the catalogue's order."""
    if style in FETCHED_STYLES:
        described = json.loads((ASSETS / f"{style}.json").read_text(encoding="utf-8"))["objects"]
        return {item["name"]: described[item["name"]] for item in _objects() if item["name"] in described}
    if style in STYLES:
        return {item["name"]: item["styles"][style] for item in _objects()}
    raise ConfigError(f"unknown sprite style {style!r}; there are {', '.join((*STYLES, *FETCHED_STYLES))}")


@lru_cache(maxsize=8)
def load_catalogue(styles: tuple[str, ...] = STYLES) -> Catalogue:
    """The objects of which all of ``styles`` have a picture.

    Raises:
        ConfigError: If a style is unknown.
    """
    objects = _objects()
    measured = [_measured(style) for style in styles]
    objects = [item for item in objects if all(item["name"] in facts for facts in measured)]
    palettes = tuple(tuple(facts[item["name"]]["colours"] for item in objects) for facts in measured)
    return Catalogue(
        names=tuple(item["name"] for item in objects),
        emoji=tuple(item["emoji"] for item in objects),
        groups=tuple(item["group"] for item in objects),
        heldout=np.array([item["heldout"] for item in objects]),
        colours=tuple(tuple(main_colour(shares) for shares in style) for style in palettes),
        palettes=palettes,
        extents=np.array(
            [[facts[item["name"]]["extent"] for item in objects] for facts in measured], dtype=np.float32
        ),
        styles=tuple(styles),
    )


@dataclass(frozen=True)
class Atlas:
    """The catalogue with its pictures.

    Attributes:
        catalogue: Names, groups, colours, extents.
        images: uint8 tensor (styles, objects, 4, S, S), RGBA, not premultiplied, S = 96.
    """

    catalogue: Catalogue
    images: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def on(self, device: torch.device) -> Tensor:
        """``images`` on a device; copied there once."""
        if device not in self._copies:
            self._copies[device] = self.images.to(device)
        return self._copies[device]

    @property
    def names(self) -> list[str]:
        """Object index → name."""
        return list(self.catalogue.names)

    @property
    def groups(self) -> list[str]:
        """Object index → group."""
        return list(self.catalogue.groups)

    @property
    def colours(self) -> list[list[str]]:
        """Style → object index → dominant colour word or ""."""
        return [list(words) for words in self.catalogue.colours]


def _sprites(style: str, cache: Path) -> NDArray[np.uint8]:
    """(N, S, S, 4) sprites of the N objects that a style has."""
    names = list(_measured(style))
    if style in FETCHED_STYLES:
        from steerseg.demo import twemoji  # asks the network and needs a renderer

        own = load_catalogue((style,))
        return twemoji.load_sprites(own.emoji, own.extents[0], cache)
    with Image.open(ASSETS / f"{style}.webp") as image:
        return split_sheet(image, len(names))


def load_atlas(styles: Sequence[str] = STYLES, cache: Path = FETCHED) -> Atlas:
    """Read the shipped sheets of ``styles``; those of other styles are fetched when first needed.

    Args:
        styles: Names of styles.
        cache: Folder of the sheets of fetched styles.

    Raises:
        ConfigError: If a style is unknown, or its pictures cannot be fetched or rendered.
    """
    catalogue = load_catalogue(tuple(styles))
    sheets = []
    for style in styles:
        index = {name: i for i, name in enumerate(_measured(style))}
        sheets.append(_sprites(style, cache)[[index[name] for name in catalogue.names]])
    images = torch.from_numpy(np.stack(sheets)).permute(0, 1, 4, 2, 3).contiguous()
    return Atlas(catalogue=catalogue, images=images)
