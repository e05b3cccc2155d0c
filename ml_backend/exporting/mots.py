"""MOTS Challenge: ``<sequence>/gt/gt.txt`` with a line for each object on each frame, and ``<sequence>/img1``.

A line is ``time_frame id class_id img_height img_width rle``. Frames count from 1, an id is the class times 1000
plus the object's number, masks do not overlap, and class 10 is a region that evaluation passes over: here what may
hide an object of unknown whereabouts.
"""

from __future__ import annotations

import configparser
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ml_backend.exporting.formats import Export, shown, write_pictures
from ml_backend.exporting.labelled import LabelledSequence, disjoint
from steerseg.errors import ConfigError
from steerseg.masks import encode_rle

IGNORE_CLASS = 10
IGNORE_ID = 10_000
_IDS = 1000  # of a class


def write_mots(export: Export, folder: Path) -> None:
    """Write a folder for each sequence, ``seqmaps/train.txt`` and ``classes.txt``."""
    names = []
    for sequence in shown(export.sequences):
        if len(sequence.objects) >= _IDS:
            raise ConfigError(
                f"task {sequence.task_id} has {len(sequence.objects)} objects, MOTS knows {_IDS - 1}; export it "
                "as coco"
            )
        names.append(sequence.name)
        sequence_folder = folder / sequence.name
        (sequence_folder / "gt").mkdir(parents=True)
        lines = "".join(f"{line}\n" for line in _lines(export, sequence))
        (sequence_folder / "gt" / "gt.txt").write_text(lines, encoding="ascii")
        (sequence_folder / "seqinfo.ini").write_text(_described(sequence), encoding="utf-8")
        write_pictures(export, sequence, range(sequence.num_frames), sequence_folder / "img1", _picture)
    (folder / "seqmaps").mkdir(exist_ok=True)
    (folder / "seqmaps" / "train.txt").write_text(
        "name\n" + "".join(f"{name}\n" for name in names), encoding="utf-8"
    )
    classes = "".join(f"{class_id(number)} {name}\n" for number, name in enumerate(export.classes, start=1))
    (folder / "classes.txt").write_text(classes + f"{IGNORE_CLASS} ignore\n", encoding="utf-8")


def class_id(number: int) -> int:
    """MOTS's number of the n-th class, from 1, around the one that MOTS reserves."""
    return number if number < IGNORE_CLASS else number + 1


def _lines(export: Export, sequence: LabelledSequence) -> Iterator[str]:
    size = f"{sequence.height} {sequence.width}"
    for index in range(sequence.num_frames):
        masks = disjoint(sequence, index)
        for number, mask in masks.items():
            kind = class_id(export.class_number(sequence.objects[number - 1].category))
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
