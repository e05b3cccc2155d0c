"""The true masks of an expression on disk; only those that are asked for are read."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from steerseg.errors import ConfigError

Masks = NDArray[np.bool_]
Size = tuple[int, int]
"""Height and width of the video's frames in pixels."""


class Truth(Protocol):
    """The masks of an expression's targets."""

    def targets(self, frames: Sequence[int], size: Size) -> Iterator[Masks]:
        """Each target's masks (N, H, W) on the given frames of the clip, one target after the other.

        Raises:
            ConfigError: A mask is missing, damaged, or not of the frames' size.
        """
        ...

    def void(self, frames: Sequence[int], size: Size) -> Masks | None:
        """Pixels (N, H, W) that count for nothing; ``None`` where the dataset has none.

        Raises:
            ConfigError: As above.
        """
        ...


@dataclass(frozen=True)
class Palette:
    """Pictures whose pixel values are object ids, as DAVIS and YouTube-VOS have them.

    Attributes:
        folder: Holds ``<frame>.png``.
        names: The clip's frames.
        objects: Ids of the targets.
        void_id: Value of pixels that count for nothing; ``None`` where every pixel counts.
    """

    folder: Path
    names: tuple[str, ...]
    objects: tuple[int, ...]
    void_id: int | None = None

    def targets(self, frames: Sequence[int], size: Size) -> Iterator[Masks]:
        """See :class:`Truth`."""
        ids = self._ids(frames, size)
        for number in self.objects:
            yield ids == number

    def void(self, frames: Sequence[int], size: Size) -> Masks | None:
        """See :class:`Truth`."""
        return None if self.void_id is None else self._ids(frames, size) == self.void_id

    def _ids(self, frames: Sequence[int], size: Size) -> NDArray[np.uint8]:
        files = tuple(self.folder / f"{self.names[frame]}.png" for frame in frames)
        ids = _read_ids(files)
        _check_size(files[0], (ids.shape[1], ids.shape[2]), size)
        return ids


@dataclass(frozen=True)
class Silhouettes:
    """A folder of black-and-white pictures for each target, as ReasonVOS has them.

    Attributes:
        folders: One a target; each holds ``<frame>.png``.
        names: The clip's frames.
    """

    folders: tuple[Path, ...]
    names: tuple[str, ...]

    def targets(self, frames: Sequence[int], size: Size) -> Iterator[Masks]:
        """See :class:`Truth`."""
        for folder in self.folders:
            masks = np.empty((len(frames), *size), dtype=bool)
            for index, frame in enumerate(frames):
                file = folder / f"{self.names[frame]}.png"
                picture = _read_picture(file)
                _check_size(file, (picture.shape[0], picture.shape[1]), size)
                masks[index] = (picture if picture.ndim == 2 else picture.max(axis=2)) > 0
            yield masks

    def void(self, frames: Sequence[int], size: Size) -> None:
        """Every pixel counts."""


@dataclass(frozen=True)
class RunLengths:
    """Entries of a ``mask_dict.json``: for each target a list over the frames of COCO RLEs or ``null``.

    Attributes:
        file: The JSON file, of up to a few GB.
        annotations: Keys of the targets in it; none for an expression that nothing in the clip answers.
        count: Frames of the clip.
    """

    file: Path
    annotations: tuple[str, ...]
    count: int

    def targets(self, frames: Sequence[int], size: Size) -> Iterator[Masks]:
        """See :class:`Truth`."""
        for key in self.annotations:
            encoded = mask_dict(self.file).read(key)
            if len(encoded) < self.count:
                raise ConfigError(
                    f"{self.file} has {len(encoded)} masks of annotation {key}, the clip {self.count} frames; "
                    "the files do not belong together"
                )
            masks = np.zeros((len(frames), *size), dtype=bool)
            for index, frame in enumerate(frames):
                if encoded[frame]:
                    masks[index] = self._decode(key, encoded[frame], size)
            yield masks

    def void(self, frames: Sequence[int], size: Size) -> None:
        """Every pixel counts."""

    def _decode(self, key: str, rle: Any, size: Size) -> Masks:
        try:
            height, width = rle["size"]
            _check_size(self.file, (height, width), size)
            if isinstance(rle["counts"], list):
                rle = coco_mask.frPyObjects(rle, height, width)
            decoded: NDArray[np.uint8] = coco_mask.decode(rle)
            return decoded.astype(bool)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.file} has a damaged mask of annotation {key}: {error}") from error


class MaskDict:
    """A ``mask_dict.json`` of which single entries are read: the whole would be many times its size in memory.

    Args:
        file: A JSON object of lists. The file is mapped and searched once for where each list begins.

    Raises:
        ConfigError: The file cannot be read or holds no such lists.
    """

    # Keys are told from "size" and "counts", the only others, by what their lists hold. Neither a run-length
    # string nor a key has a quotation mark in it.
    _ENTRY = re.compile(rb'"([^"\\]+)"\s*:\s*(\[)\s*(?=null|\{|\])')

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            with file.open("rb") as handle:
                self._content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read: {error}; complete the dataset") from error
        entries = [(m.group(1).decode(), m.start(), m.start(2)) for m in self._ENTRY.finditer(self._content)]
        if not entries:
            raise ConfigError(f"{file} is not a mask_dict.json: it has no lists of masks")
        ends = [begin for _, begin, _ in entries[1:]] + [len(self._content)]
        self._spans = {key: (start, end) for (key, _, start), end in zip(entries, ends, strict=True)}

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, key: str) -> list[Any]:
        """One entry: over the frames, a COCO RLE or ``None``.

        Raises:
            ConfigError: There is no such entry, or it is damaged.
        """
        if key not in self._spans:
            raise ConfigError(f"{self._file} has no annotation {key}, which an expression names")
        start, end = self._spans[key]
        try:
            value = json.JSONDecoder().raw_decode(self._content[start:end].decode())[0]
        except ValueError as error:
            raise ConfigError(f"{self._file} is damaged at annotation {key}: {error}") from error
        assert isinstance(value, list)
        return value


@lru_cache(maxsize=2)
def mask_dict(file: Path) -> MaskDict:
    """The index of a file, kept for the next mask."""
    return MaskDict(file)


@lru_cache(maxsize=2)  # expressions of one clip follow each other
def _read_ids(files: tuple[Path, ...]) -> NDArray[np.uint8]:
    """Object ids (N, H, W)."""
    pictures = [_read_picture(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.ndim != 2:
            raise ConfigError(f"{file} is in colours; expected a picture of object ids (palette or grey)")
        _check_size(file, (picture.shape[0], picture.shape[1]), pictures[0].shape[:2])
    ids = np.stack(pictures)
    ids.flags.writeable = False
    return ids


def _read_picture(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return np.asarray(image)
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing; the dataset must annotate every frame that it lists") from None
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; complete the dataset") from error


def _check_size(file: Path, size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(size) != tuple(expected):
        raise ConfigError(
            f"{file} has masks of {size[1]}x{size[0]}, but the frames are {expected[1]}x{expected[0]}; frames "
            "and masks must come from the same release of the dataset"
        )
