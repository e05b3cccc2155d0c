"""Datasets as samples: Ref-YouTube-VOS layout on disk, which `sprites-ref` shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steerseg.errors import ConfigError

SPRITES_REF = "sprites-ref"


@dataclass(frozen=True)
class Sample:
    """One (clip, expression) with its ground truth on disk.

    Attributes:
        id: Unique in the split: ``video/expression``.
        video: The clip's name; samples of one clip follow each other.
        folder: Where its JPEG frames are.
        frames: Frame names without suffix, in order.
        fps: Frames a second.
        expression: What to segment.
        annotations: Where its palette PNGs are.
        objects: Ids in the annotations that belong to the expression.
        kind: Kind of expression, "" where the dataset has none.
        name: Name of the target, "" where the dataset has none.
        attributes: Ground-truth attributes, empty where the dataset has none.
        twin: Whether another object of the clip has the same name.
    """

    id: str
    video: str
    folder: Path
    frames: tuple[str, ...] = field(repr=False)
    fps: float
    expression: str
    annotations: Path
    objects: tuple[int, ...]
    kind: str = ""
    name: str = ""
    attributes: tuple[str, ...] = ()
    twin: bool = False

    def masks(self) -> NDArray[np.bool_]:
        """The true masks of all targets together, (T, H, W).

        Raises:
            ConfigError: If an annotation is missing.
        """
        return np.isin(self.ids(), self.objects)

    def ids(self) -> NDArray[np.uint8]:
        """What is annotated, (T, H, W): object ids, 0 where there is none.

        Raises:
            ConfigError: If an annotation is missing.
        """
        stack = []
        for frame in self.frames:
            path = self.annotations / f"{frame}.png"
            if not path.is_file():
                raise ConfigError(f"{path} is missing; the dataset must annotate every frame it lists")
            with Image.open(path) as image:
                stack.append(np.asarray(image))
        return np.stack(stack)


def _objects(expression: dict[str, Any], where: str) -> tuple[int, ...]:
    ids = expression.get("obj_ids", expression.get("obj_id"))
    if ids is None:
        raise ConfigError(
            f"{where} names no object (obj_id); this split comes without ground truth, use one that has it"
        )
    return tuple(int(i) for i in (ids if isinstance(ids, list) else [ids]))


def read_ref_youtube_vos(root: str | Path, split: str, *, fps: float = 6.0) -> list[Sample]:
    """Samples of a split in Ref-YouTube-VOS layout.

    Expects ``<root>/<split>/JPEGImages/<video>/<frame>.jpg``,
    ``<root>/<split>/Annotations/<video>/<frame>.png`` and
    ``<root>/meta_expressions/<split>/meta_expressions.json``. Beyond the public format an expression may
    have ``obj_ids``, ``kind``, ``name``, ``attributes`` and ``twin``, and a video ``fps``.

    Args:
        root: The dataset's folder.
        split: For instance "train".
        fps: Frame rate of videos that do not tell theirs (Ref-YouTube-VOS annotates 6 frames a second).

    Raises:
        ConfigError: If a file is missing or has no ground truth.
    """
    root = Path(root)
    path = root / "meta_expressions" / split / "meta_expressions.json"
    if not path.is_file():
        raise ConfigError(
            f"no {path}; give the root of a dataset in Ref-YouTube-VOS layout and one of its splits"
        )
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a meta_expressions file: {error}") from error
    samples = []
    for video, entry in videos.items():
        folder = root / split / "JPEGImages" / video
        if not folder.is_dir():
            raise ConfigError(f"no frames at {folder}, which {path.name} lists; complete the dataset")
        for key, expression in entry["expressions"].items():
            samples.append(
                Sample(
                    id=f"{video}/{key}",
                    video=video,
                    folder=folder,
                    frames=tuple(entry["frames"]),
                    fps=float(entry.get("fps", fps)),
                    expression=expression["exp"],
                    annotations=root / split / "Annotations" / video,
                    objects=_objects(expression, f"{video}, expression {key} of {path.name}"),
                    kind=expression.get("kind", ""),
                    name=expression.get("name", ""),
                    attributes=tuple(expression.get("attributes", ())),
                    twin=bool(expression.get("twin", False)),
                )
            )
    return samples


def split_digest(samples: Sequence[Sample]) -> str:
    """Tells whether a split's clips and expressions are the same, wherever they lie on disk."""
    state = hashlib.sha256()
    for sample in samples:
        told = (sample.id, sample.frames, sample.expression, sample.objects, sample.kind, sample.name)
        state.update(repr(told).encode())
    return state.hexdigest()[:16]


def open_dataset(dataset: str, split: str, data: str | Path = "data", workers: int = 1) -> list[Sample]:
    """Samples of `sprites-ref`, drawn under ``data`` if they are not there yet, or of a dataset's folder.

    Args:
        dataset: "sprites-ref" or the root of a dataset in Ref-YouTube-VOS layout.
        split: Which split.
        data: Where `sprites-ref` is kept.
        workers: Processes that draw it.

    Raises:
        ConfigError: If the dataset or split does not exist.
    """
    if dataset != SPRITES_REF:
        return read_ref_youtube_vos(dataset, split)
    from steerseg.demo.dataset import load_manifest, write_split  # only this dataset needs the renderer

    root = Path(data) / SPRITES_REF
    write_split(load_manifest(split), root, workers)
    return read_ref_youtube_vos(root, split)
