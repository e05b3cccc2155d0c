"""The formats by name, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml_backend.exporting.classes import ClassTable
from ml_backend.exporting.labelled import LabelledSequence, disjoint
from ml_backend.exporting.omissions import Omission
from ml_backend.exporting.pictures import Pictures

VOID = 255
"""In pictures of object numbers: pixels of which nobody knows what they show, as in DAVIS."""

MAX_OBJECTS = VOID - 1

_HELD = "this format leaves other frames out; davis and mots hold them"


@dataclass(frozen=True)
class Export:
    """What a format writes.

    Attributes:
        project_id: Project in Label Studio.
        sequences: The tasks' frames and objects.
        pictures: By name of the sequence, its pictures; those whose pictures are not wanted are missing.
        classes: Every class of the project.
        parts: The names of the sequences in each part of the split; without a split, all are in :data:`TRAIN`.
        is_split: Whether a split was asked for.
    """

    project_id: int
    sequences: tuple[LabelledSequence, ...]
    pictures: Mapping[str, Pictures] = field(repr=False)
    classes: ClassTable
    parts: Mapping[str, frozenset[str]]
    is_split: bool = False

    def of_part(self, part: str) -> tuple[LabelledSequence, ...]:
        """The sequences in a part of the split."""
        return tuple(one for one in self.sequences if one.name in self.parts[part])


@dataclass(frozen=True)
class Format:
    """A format of datasets.

    Attributes:
        write: Writes a dataset into a folder; returns what the format cannot hold.
        numbers: The format's number of each class by name; empty where it numbers no classes.
    """

    write: Callable[[Export, Path], list[Omission]]
    numbers: Callable[[ClassTable], Mapping[str, int]] = field(default=lambda classes: {})


def picture_name(index: int) -> str:
    """What most formats call the picture of a frame."""
    return f"{index:05d}.jpg"


def write_pictures(
    export: Export,
    sequence: LabelledSequence,
    frames: Sequence[int],
    folder: Path,
    name: Callable[[int], str] = picture_name,
) -> None:
    """Write the pictures of some frames, where pictures are wanted.

    Args:
        export: Has the pictures.
        sequence: Whose.
        frames: Which frames.
        folder: Where the pictures go; made where missing.
        name: Their names by frame.

    Raises:
        VideoError: The pictures cannot be read.
    """
    pictures = export.pictures.get(sequence.name)
    if pictures is None or not frames:
        return
    wanted = set(frames)
    for index, content in enumerate(pictures.jpegs()):
        if index in wanted:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name(index)).write_bytes(content)


def numbered(sequence: LabelledSequence, index: int, *, void: bool) -> NDArray[np.uint8]:
    """A frame as (H, W) numbers of objects from 1, without overlaps; 0 is background.

    Args:
        sequence: At most :data:`MAX_OBJECTS` objects.
        index: The frame.
        void: Whether what may hide an object of unknown whereabouts is :data:`VOID` in place of background.
    """
    undecided = any(index not in object_.masks for object_ in sequence.objects)
    picture = np.full((sequence.height, sequence.width), VOID if void and undecided else 0, dtype=np.uint8)
    for number, mask in disjoint(sequence, index).items():
        picture[mask] = number
    return picture


def save_palette(picture: NDArray[np.uint8], path: Path) -> None:
    """Write numbers of objects as a PNG whose palette is DAVIS's."""
    image = Image.fromarray(picture, mode="P")
    image.putpalette(PALETTE)
    image.save(path)


def shown(sequences: Sequence[LabelledSequence]) -> Iterator[LabelledSequence]:
    """Those of which any frame shows any object: formats of tracks cannot hold others."""
    return (one for one in sequences if any(object_.ever_visible for object_ in one.objects))


def unshown(export: Export) -> list[Omission]:
    """What formats of tracks leave out: objects that no frame shows."""
    return [
        Omission(
            sequence.task_id,
            object_.annotation_id,
            object_.name,
            "it is visible on no frame, and this format holds tracks alone; coco and yolo-seg hold its frames",
            expected=True,
        )
        for sequence in export.sequences
        for object_ in sequence.objects
        if not object_.ever_visible
    ]


def lost(export: Export) -> list[Omission]:
    """What is missing from formats that hold no frame on which any object is undecided."""
    omissions = []
    for sequence in export.sequences:
        frames = sequence.decided()
        if not frames:
            omissions.append(
                Omission(
                    sequence.task_id,
                    None,
                    "",
                    f"at least one object is undecided on each of its {sequence.num_frames} frames; {_HELD}",
                    expected=not any(object_.ever_visible for object_ in sequence.objects),
                )
            )
        omissions += [
            Omission(
                sequence.task_id,
                object_.annotation_id,
                object_.name,
                f"it is seen on no frame on which every object is decided; {_HELD}",
            )
            for object_ in sequence.objects
            if object_.ever_visible and not object_.visible_on(frames)
        ]
    return omissions


class Hidden:
    """Counts the frames on which an object lies wholly under others, in formats that give a pixel to one object."""

    def __init__(self, sequence: LabelledSequence) -> None:
        self._sequence = sequence
        self._visible = [0] * len(sequence.objects)
        self._hidden = [0] * len(sequence.objects)

    def note(self, index: int, written: Collection[int]) -> None:
        """Note what was written of a frame.

        Args:
            index: The frame.
            written: Numbers of the objects from 1 that have a pixel.
        """
        for number, object_ in enumerate(self._sequence.objects, start=1):
            mask = object_.masks.get(index)
            if mask is not None and mask.visible:
                self._visible[number - 1] += 1
                self._hidden[number - 1] += number not in written

    def omissions(self) -> list[Omission]:
        """The objects that others hide; one that is never seen is missing from the dataset."""
        return [
            Omission(
                self._sequence.task_id,
                object_.annotation_id,
                object_.name,
                f"others cover it on {hidden} of its {visible} frames, and this format gives a pixel to one object; "
                "coco keeps overlaps",
                expected=hidden < visible,
            )
            for object_, hidden, visible in zip(
                self._sequence.objects, self._hidden, self._visible, strict=True
            )
            if hidden
        ]


def _palette() -> bytes:
    """PASCAL VOC's colours, which DAVIS and YouTube-VOS use: bits of the number spread over the channels."""
    colours = bytearray()
    for number in range(256):
        red = green = blue = 0
        rest = number
        for bit in range(8):
            red |= (rest & 1) << (7 - bit)
            green |= (rest >> 1 & 1) << (7 - bit)
            blue |= (rest >> 2 & 1) << (7 - bit)
            rest >>= 3
        colours += bytes((red, green, blue))
    return bytes(colours)


PALETTE = _palette()
