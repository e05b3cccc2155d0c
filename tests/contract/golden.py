"""Golden answers: JSON files that a later run must reproduce; see ``update.py`` for when they may be rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

FOLDER = Path(__file__).parent / "golden"
_MOST_DIFFERENCES = 20
_RLE = {"size", "counts"}


@dataclass(frozen=True)
class Tolerance:
    """By how much values may differ that follow from float arithmetic, which no two kinds of CPU do alike.

    Attributes:
        number: Largest difference of two fractional numbers.
        iou: Least overlap of two masks in COCO's run-length encoding.
    """

    number: float
    iou: float

    def allows(self, expected: Any, found: Any) -> bool:
        """Whether two values differ by no more."""
        if isinstance(expected, float) and isinstance(found, float):
            return abs(expected - found) <= self.number
        masks = [value for value in (expected, found) if isinstance(value, dict) and set(value) == _RLE]
        if len(masks) < 2 or masks[0]["size"] != masks[1]["size"]:
            return False
        one, other = ({**mask, "counts": mask["counts"].encode()} for mask in masks)
        if not coco_mask.area(one) and not coco_mask.area(other):
            return True
        return float(coco_mask.iou([one], [other], [0])[0, 0]) >= self.iou


@dataclass(frozen=True)
class Golden:
    """Compares values with the golden files, or rewrites the files.

    Attributes:
        updating: Whether files are rewritten.
    """

    updating: bool

    def check(self, name: str, value: Any, tolerance: Tolerance | None = None) -> None:
        """Require that a JSON-ready value equals the golden one, or make it the golden one.

        Args:
            name: Path of the file below the folder, without its suffix.
            value: The value, normalised.
            tolerance: By how much numbers and masks may differ; not at all where left out.
        """
        if self.updating:
            self.write(name, value)
            return
        differences = []
        for difference in differing(self.read(name), json.loads(json.dumps(value)), tolerance):
            differences.append(difference)
            if len(differences) == _MOST_DIFFERENCES:
                break
        assert not differences, f"{name} differs from its golden answer:\n" + "\n".join(differences)

    def read(self, name: str) -> Any:
        """The golden value."""
        return json.loads(_path(name).read_text("utf-8"))

    def write(self, name: str, value: Any) -> None:
        """Make a value the golden one."""
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def _path(name: str) -> Path:
    return FOLDER / f"{name}.json"


def differing(
    expected: Any, found: Any, tolerance: Tolerance | None = None, where: str = "$"
) -> Iterator[str]:
    """Where two JSON values differ, one line for each place."""
    if tolerance is not None and tolerance.allows(expected, found):
        return
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if key not in found:
                yield f"{where}.{key}: missing, expected {_short(expected[key])}"
            elif key not in expected:
                yield f"{where}.{key}: unexpected {_short(found[key])}"
            else:
                yield from differing(expected[key], found[key], tolerance, f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: {len(found)} items, expected {len(expected)}"
        for index, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from differing(one, other, tolerance, f"{where}[{index}]")
    elif type(expected) is not type(found) or expected != found:
        yield f"{where}: {_short(found)}, expected {_short(expected)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}…"
