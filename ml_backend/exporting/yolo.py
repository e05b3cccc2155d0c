"""YOLO's segmentation labels: a text file for each picture, a line for each object: its class and an outline.

Corners are fractions of the picture's size. An object in several parts is one outline whose parts are joined by
cuts of no width, as Ultralytics' own converter joins them. A frame on which anybody's whereabouts are unknown is
left out; one without an object has an empty file.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from ml_backend.exporting.formats import Export, write_pictures
from ml_backend.exporting.labelled import LabelledSequence
from ml_backend.label_studio.outlines import Outline, joined_outline, mask_to_outlines
from steerseg.masks import RLE, decode_rle


def write_yolo_seg(export: Export, folder: Path) -> None:
    """Write ``images/train``, ``labels/train`` and ``data.yaml``."""
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    for sequence in export.sequences:
        frames = sequence.decided()
        for index in frames:
            lines = _lines(export, sequence, index)
            text = "".join(f"{line}\n" for line in lines)
            (labels / f"{_name(sequence, index)}.txt").write_text(text, encoding="ascii")
        images = folder / "images" / "train"
        write_pictures(export, sequence, frames, images, partial(_picture, sequence))
    # JSON strings are YAML strings.
    names = "".join(f"  {index}: {json.dumps(name)}\n" for index, name in enumerate(export.classes))
    (folder / "data.yaml").write_text(
        "# Frames of one video are alike: hold out whole videos (the part of a file's name before the last "
        "hyphen).\npath: .\ntrain: images/train\nval: images/train\nnames:\n" + names,
        encoding="utf-8",
    )


def _lines(export: Export, sequence: LabelledSequence, index: int) -> list[str]:
    lines = []
    for object_ in sequence.objects:
        mask = object_.masks[index]
        outline = None if mask.rle is None else _outline(mask.rle)
        if outline is not None:
            corners = outline / np.array([sequence.width, sequence.height])
            numbers = " ".join(f"{value:.6f}" for value in corners.ravel())
            lines.append(f"{export.class_number(object_.category) - 1} {numbers}")
    return lines


def _outline(rle: RLE) -> Outline | None:
    parts = mask_to_outlines(decode_rle(rle), keep_specks=True)
    return joined_outline(parts) if parts else None


def _name(sequence: LabelledSequence, index: int) -> str:
    return f"{sequence.name}-{index:05d}"


def _picture(sequence: LabelledSequence, index: int) -> str:
    return f"{_name(sequence, index)}.jpg"
