"""DAVIS and YouTube-VOS: a folder of pictures and one of palette PNGs, whose values are numbers of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_backend.exporting.formats import (
    MAX_OBJECTS,
    Export,
    numbered,
    save_palette,
    shown,
    write_pictures,
)
from ml_backend.exporting.labelled import LabelledSequence
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import json_bytes

SPLIT = "train"
_RESOLUTION = "Full-Resolution"


def write_davis(export: Export, folder: Path) -> None:
    """Write DAVIS 2017: ``JPEGImages``, ``Annotations`` (both ``Full-Resolution``) and ``ImageSets/2017/train.txt``.

    Every frame has an annotation. Where an object's whereabouts are unknown, pixels that belong to no other object
    are 255, which DAVIS's tools pass over.
    """
    names = []
    for sequence in shown(export.sequences):
        _check(sequence)
        names.append(sequence.name)
        masks = folder / "Annotations" / _RESOLUTION / sequence.name
        masks.mkdir(parents=True)
        for index in range(sequence.num_frames):
            save_palette(numbered(sequence, index, void=True), masks / f"{index:05d}.png")
        images = folder / "JPEGImages" / _RESOLUTION / sequence.name
        write_pictures(export, sequence, range(sequence.num_frames), images)
    sets = folder / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    (sets / f"{SPLIT}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_youtube_vos(export: Export, folder: Path) -> None:
    """Write YouTube-VOS: ``train/JPEGImages``, ``train/Annotations`` and ``train/meta.json``.

    ``meta_expressions/train/meta_expressions.json`` holds the expressions as Ref-YouTube-VOS has them, so that
    ``steerseg evaluate`` and ``steerseg train`` read the folder as it is. Frames on which an object's whereabouts
    are unknown have a picture but no annotation, and are not among the expressions' frames.
    """
    videos: dict[str, Any] = {}
    expressions: dict[str, Any] = {}
    for sequence in shown(export.sequences):
        _check(sequence)
        frames = sequence.decided()
        masks = folder / SPLIT / "Annotations" / sequence.name
        masks.mkdir(parents=True)
        for index in frames:
            save_palette(numbered(sequence, index, void=False), masks / f"{index:05d}.png")
        images = folder / SPLIT / "JPEGImages" / sequence.name
        write_pictures(export, sequence, range(sequence.num_frames), images)
        videos[sequence.name] = {"objects": _objects(sequence, frames)}
        expressions[sequence.name] = {
            "frames": [f"{index:05d}" for index in frames],
            "fps": sequence.fps,
            "expressions": {
                str(index): {"exp": object_.expression, "obj_id": str(index + 1)}
                for index, object_ in enumerate(sequence.objects)
            },
        }
    meta = folder / "meta_expressions" / SPLIT
    meta.mkdir(parents=True)
    (folder / SPLIT).mkdir(exist_ok=True)
    (folder / SPLIT / "meta.json").write_bytes(json_bytes({"videos": videos}))
    (meta / "meta_expressions.json").write_bytes(json_bytes({"videos": expressions}))


def _objects(sequence: LabelledSequence, frames: list[int]) -> dict[str, Any]:
    """Each object with the frames that show it."""
    return {
        str(number): {
            "category": object_.category,
            "frames": [f"{index:05d}" for index in frames if object_.masks[index].visible],
        }
        for number, object_ in enumerate(sequence.objects, start=1)
    }


def _check(sequence: LabelledSequence) -> None:
    if len(sequence.objects) > MAX_OBJECTS:
        raise ConfigError(
            f"task {sequence.task_id} has {len(sequence.objects)} objects; pictures of one byte a pixel tell "
            f"{MAX_OBJECTS} apart: export it as coco"
        )
