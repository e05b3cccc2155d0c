"""Colours of labels that stand out from the pictures, and their place in a labelling configuration.

Label Studio fills a mask with its label's colour, half transparent, whatever the mask lies on. How well that is seen is
measured as the distance in CIELAB between a pixel and the pixel under the colour (our choice: CIE 1976, and the tenth
of the pixels where it is least).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_backend.label_studio.config_xml import read_tags
from steerseg.errors import ConfigError

PALETTE = (
    *("#2F80ED", "#F2994A", "#27AE60", "#BB6BD9", "#EB5757", "#F2C94C", "#00C2D1", "#FF3EA5"),
    *("#9BE800", "#7A3CFF", "#00A88F", "#B8002E", "#1B2A8A", "#FFF27A"),
)
"""Colours that a label may get. Each differs clearly from every other one, and none is grey."""

FILL = 0.5
"""Opacity of a mask's fill in the configurations of ``label_config``."""

LEAST_CONTRAST = 12.0
"""CIELAB distance below which a fill is hardly seen; 2 is just seen by a trained eye on plain fields."""

_DEFAULT = "#FFA39E"
"""What a label without a colour, or with the name of one, is taken for: Label Studio's first own colour."""
_MOST_PIXELS = 20_000
_BACKGROUND = re.compile(r"""(\sbackground\s*=\s*)(?:"[^"]*"|'[^']*')""", re.IGNORECASE)


@dataclass(frozen=True)
class ColourChoice:
    """The colours of a configuration's mask labels on the pictures of a project.

    Attributes:
        labels: The labels, in their order.
        present: Their colours, as ``#RRGGBB``.
        contrasts: How far each stands out, in CIELAB.
        better: The colours that stand out best, one for each label.
        better_contrasts: How far these do.
    """

    labels: tuple[str, ...]
    present: tuple[str, ...]
    contrasts: tuple[float, ...]
    better: tuple[str, ...]
    better_contrasts: tuple[float, ...]

    @property
    def faint(self) -> tuple[str, ...]:
        """The labels whose colour is hardly seen, where another one is seen better."""
        rows = zip(self.labels, self.contrasts, strict=True)
        return tuple(name for name, seen in rows if seen < min(LEAST_CONTRAST, max(self.better_contrasts)))


def choose_colours(
    label_config: str,
    labels: Sequence[str],
    pictures: Sequence[NDArray[np.uint8]],
    objects: Sequence[NDArray[np.uint8]] = (),
) -> ColourChoice:
    """Compare the labels' colours with pictures, and choose those of :data:`PALETTE` that stand out best.

    Each further colour is chosen by the lesser of two: how far it stands out, and half its distance to the colours that
    are taken, so that objects are told apart as well.

    Args:
        label_config: The labelling configuration.
        labels: The labels of masks.
        pictures: (H, W, 3) RGB pictures of the project; at least one.
        objects: (N, 3) RGB pixels of each object that has a mask already. Objects are a small part of the pictures, and
            the masks lie on them: a colour counts by its contrast with them where that is less.

    Raises:
        ConfigError: The configuration is no XML.
    """
    groups = [_some([picture.reshape(-1, 3) for picture in pictures])]
    if any(len(pixels) for pixels in objects):
        groups.append(_some(objects))

    def least(colour: str) -> float:
        return min(contrast(colour, pixels) for pixels in groups)

    seen = {colour: least(colour) for colour in PALETTE}
    chosen: list[str] = []
    for _ in labels:
        free = [colour for colour in PALETTE if colour not in chosen] or list(PALETTE)
        chosen.append(max(free, key=lambda colour: min([seen[colour], *_apart(colour, chosen)])))
    present = _present(label_config, labels)
    return ColourChoice(
        tuple(labels),
        present,
        tuple(least(colour) for colour in present),
        tuple(chosen),
        tuple(seen[colour] for colour in chosen),
    )


def contrast(colour: str, pixels: NDArray[np.uint8]) -> float:
    """How far a fill stands out from (N, 3) RGB pixels, in CIELAB; a tenth of them is below."""
    plain = _unit(pixels)
    filled = np.asarray((1 - FILL) * plain + FILL * _rgb(colour), dtype=np.float32)
    return float(np.percentile(np.linalg.norm(np.subtract(_lab(filled), _lab(plain)), axis=1), 10))


def _some(groups: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """(N, 3) pixels of all groups, evenly spread."""
    pixels = np.concatenate(groups)
    return pixels[:: max(1, len(pixels) // _MOST_PIXELS)]


def with_colours(label_config: str, colours: Mapping[str, str]) -> str:
    """A configuration with other label colours; all else, comments included, stays to the letter.

    Args:
        label_config: The labelling configuration.
        colours: Value of a label → its colour; every label of that value gets it, so that a mask and a box agree.

    Raises:
        ConfigError: A label is written in a way that cannot be changed by itself.
    """

    def recoloured(tag: re.Match[str]) -> str:
        colour = colours.get(_attribute(tag.group(), "alias") or _attribute(tag.group(), "value"))
        if colour is None:
            return tag.group()
        if _attribute(tag.group(), "background"):
            return _BACKGROUND.sub(rf'\1"{colour}"', tag.group())
        return re.sub(r"\s*(/?>)$", rf' background="{colour}"\1', tag.group())

    changed = re.sub(r"<Label\s[^<>]*>", recoloured, label_config, flags=re.IGNORECASE)
    if _present(changed, list(colours)) != tuple(colours.values()):
        raise ConfigError("the labels' colours cannot be written into this labelling configuration")
    return changed


def _present(label_config: str, labels: Sequence[str]) -> tuple[str, ...]:
    tags = [tag for tag in read_tags(label_config) if tag.kind == "label"]
    found = {tag.get("alias") or tag.get("value"): tag.get("background") for tag in tags}
    colours = (found.get(label, "") for label in labels)
    return tuple(
        colour.upper() if re.fullmatch("#[0-9a-fA-F]{6}", colour) else _DEFAULT for colour in colours
    )


def _attribute(tag: str, name: str) -> str:
    """An attribute of a tag's text; empty where it is not given."""
    found = re.search(rf"""\s{name}\s*=\s*("[^"]*"|'[^']*')""", tag, re.IGNORECASE)
    return "" if found is None else html.unescape(found.group(1)[1:-1]).strip()


def _apart(colour: str, taken: Sequence[str]) -> list[float]:
    own = _lab(_rgb(colour)[None])
    return [float(np.linalg.norm(np.subtract(own, _lab(_rgb(one)[None])))) / 2 for one in taken]


def _rgb(colour: str) -> NDArray[np.float32]:
    return _unit(np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]))


def _unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """Values from 0 to 255 as values in [0, 1]."""
    return np.asarray(values / 255, dtype=np.float32)


def _lab(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3) sRGB in [0, 1] as CIELAB."""
    return np.asarray(cv2.cvtColor(rgb[None], cv2.COLOR_RGB2LAB)[0], dtype=np.float32)
