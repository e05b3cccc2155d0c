"""MOTS Challenge: ``<sequence>/gt/gt.txt`` with a line for each object on each frame, and ``<sequence>/img1``.

A line is ``time_frame id class_id img_height img_width rle``. Frames count from 1, an id is the class times 1000
plus the object's number, masks do not overlap, and class 10 is a region that evaluation passes over: here what may
hide an object of unknown whereabouts.
"""

from __future__ import annotations

import configparser
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ml_backend.exporting.classes import ClassTable
from ml_backend.exporting.formats import Export, Hidden, shown, unshown, write_pictures
from ml_backend.exporting.labelled import LabelledSequence, disjoint
from ml_backend.exporting.omissions import Omission
from steerseg.errors import ConfigError
from steerseg.masks import encode_rle

BACKGROUND_CLASS = 0
IGNORE_CLASS = 10
IGNORE_ID = 10_000
_IDS = 1000  # of a class


def mots_numbers(classes: ClassTable) -> dict[str, int]:
    """The ids of classes; MOTS reserves 0 and 10, and the configuration cannot give those."""
    return classes.numbers(first=1, reserved=(BACKGROUND_CLASS, IGNORE_CLASS))


def write_mots(export: Export, folder: Path) -> list[Omission]:
    """Write a folder for each sequence, ``seqmaps/<part>.txt`` and ``classes.txt``."""
    numbers = mots_numbers(export.classes)
    omissions = unshown(export)
    for sequence in shown(export.sequences):
        if len(sequence.objects) >= _IDS:
            raise ConfigError(
                f"task {sequence.task_id} has {len(sequence.objects)} objects, MOTS knows {_IDS - 1}; export it "
                "as coco"
            )
        hidden = Hidden(sequence)
        sequence_folder = folder / sequence.name
        (sequence_folder / "gt").mkdir(parents=True)
        lines = "".join(f"{line}\n" for line in _lines(numbers, sequence, hidden))
        (sequence_folder / "gt" / "gt.txt").write_text(lines, encoding="ascii")
        (sequence_folder / "seqinfo.ini").write_text(_described(sequence), encoding="utf-8")
        write_pictures(export, sequence, range(sequence.num_frames), sequence_folder / "img1", _picture)
        omissions += hidden.omissions()
    (folder / "seqmaps").mkdir(exist_ok=True)
    for part in export.parts:
        names = "".join(f"{sequence.name}\n" for sequence in shown(export.of_part(part)))
        (folder / "seqmaps" / f"{part}.txt").write_text(f"name\n{names}", encoding="utf-8")
    classes = "".join(f"{number} {name}\n" for name, number in numbers.items())
    (folder / "classes.txt").write_text(classes + f"{IGNORE_CLASS} ignore\n", encoding="utf-8")
    return omissions


def _lines(numbers: Mapping[str, int], sequence: LabelledSequence, hidden: Hidden) -> Iterator[str]:
    size = f"{sequence.height} {sequence.width}"
    for index in range(sequence.num_frames):
        masks = disjoint(sequence, index)
        hidden.note(index, masks)
        for number, mask in masks.items():
            kind = numbers[sequence.objects[number - 1].category]
            yield f"{index + 1} {kind * _IDS + number} {kind} {size} {encode_rle(mask)['counts']}"
        if any(index not in object_.masks for object_ in sequence.objects):
            rest = np.ones((sequence.height, sequence.width), dtype=bool)
            for mask in masks.values():
                rest &= ~mask
            if rest.any():
                counts = encode_rle(rest)["counts"]
                yield f"{index + 1} {IGNORE_ID} {IGNORE_CLASS} {size} {counts}"


def _described(sequence: LabelledSequence) -> str:
    info = configparser.ConfigParser()
    info.optionxform = str  # type: ignore[assignment,method-assign]
    info["Sequence"] = {
        "name": sequence.name,
        "imDir": "img1",
        "frameRate": f"{sequence.fps:g}",
        "seqLength": str(sequence.num_frames),
        "imWidth": str(sequence.width),
        "imHeight": str(sequence.height),
        "imExt": ".jpg",
    }
    buffer = io.StringIO()
    info.write(buffer, space_around_delimiters=False)
    return buffer.getvalue()


def _picture(index: int) -> str:
    return f"{index + 1:06d}.jpg"
