"""YOLO's segmentation labels: a text file for each picture, a line for each object: its class and an outline.

Corners are fractions of the picture's size. An object in several parts is one outline whose parts are joined by
cuts of no width, as Ultralytics' own converter joins them. A frame on which anybody's whereabouts are unknown is
left out; one without an object has an empty file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ml_backend.exporting.classes import ClassTable
from ml_backend.exporting.formats import Export, lost, write_pictures
from ml_backend.exporting.labelled import LabelledSequence
from ml_backend.exporting.omissions import Omission
from ml_backend.exporting.splits import TEST, TRAIN, VAL
from ml_backend.label_studio.outlines import Outline, joined_outline, mask_to_outlines
from steerseg.masks import RLE, decode_rle


def yolo_numbers(classes: ClassTable) -> dict[str, int]:
    """The numbers of classes; those that the configuration does not number count from 0."""
    return classes.numbers(first=0)


def write_yolo_seg(export: Export, folder: Path) -> list[Omission]:
    """Write ``images/<part>``, ``labels/<part>`` and ``data.yaml``; return what is seen on no frame that is held."""
    numbers = yolo_numbers(export.classes)
    for part in export.parts:
        labels, images = folder / "labels" / part, folder / "images" / part
        labels.mkdir(parents=True)
        images.mkdir(parents=True)
        for sequence in export.of_part(part):
            frames = sequence.decided()
            for index in frames:
                text = "".join(f"{line}\n" for line in _lines(numbers, sequence, index))
                (labels / f"{_name(sequence, index)}.txt").write_text(text, encoding="ascii")
            write_pictures(export, sequence, frames, images, partial(_picture, sequence))
    (folder / "data.yaml").write_text(_described(export, numbers), encoding="utf-8")
    return lost(export)


def _described(export: Export, numbers: Mapping[str, int]) -> str:
    """The content of ``data.yaml``.

    It names no ``path``: the tools take the file's own folder then, wherever they are started.
    """
    lines = []
    if not export.is_split:
        lines.append("# Nothing is held out: `val` is `train`. Export with --split to hold out whole videos.")
    held_out = VAL if export.parts.get(VAL) else TRAIN
    lines += [f"train: images/{TRAIN}", f"val: images/{held_out}"]
    if TEST in export.parts:
        lines.append(f"test: images/{TEST}")
    names = {number: name for name, number in numbers.items()}
    lines.append("names:")
    # The tools want a name for every number up to the largest. JSON strings are YAML strings.
    lines += [
        f"  {number}: {json.dumps(names.get(number, f'unused {number}'))}"
        for number in range(max(names, default=-1) + 1)
    ]
    return "".join(f"{line}\n" for line in lines)


def _lines(numbers: Mapping[str, int], sequence: LabelledSequence, index: int) -> list[str]:
    lines = []
    for object_ in sequence.objects:
        mask = object_.masks[index]
        outline = None if mask.rle is None else _outline(mask.rle)
        if outline is not None:
            corners = outline / np.array([sequence.width, sequence.height])
            outline_text = " ".join(f"{value:.6f}" for value in corners.ravel())
            lines.append(f"{numbers[object_.category]} {outline_text}")
    return lines


def _outline(rle: RLE) -> Outline | None:
    parts = mask_to_outlines(decode_rle(rle), keep_specks=True)
    return joined_outline(parts) if parts else None


def _name(sequence: LabelledSequence, index: int) -> str:
    return f"{sequence.name}-{index:05d}"


def _picture(sequence: LabelledSequence, index: int) -> str:
    return f"{_name(sequence, index)}.jpg"
