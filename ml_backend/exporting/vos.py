"""DAVIS and YouTube-VOS: a folder of pictures and one of palette PNGs, whose values are numbers of objects."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.exporting.formats import (
    MAX_OBJECTS,
    Export,
    Hidden,
    lost,
    numbered,
    save_palette,
    shown,
    unshown,
    write_pictures,
)
from ml_backend.exporting.labelled import ExportedObject, LabelledSequence
from ml_backend.exporting.omissions import Omission
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import json_bytes

_RESOLUTION = "Full-Resolution"


def write_davis(export: Export, folder: Path) -> list[Omission]:
    """Write DAVIS 2017: ``JPEGImages``, ``Annotations`` (both ``Full-Resolution``) and ``ImageSets/2017/<part>.txt``.

    Every frame has an annotation. Where an object's whereabouts are unknown, pixels that belong to no other object
    are 255, which DAVIS's tools pass over. ``meta_expressions`` has the expressions as for YouTube-VOS. Each has
    ``frames`` of its own, those on which its object is decided; on others nothing is known of it.
    """
    omissions = unshown(export)
    for sequence in shown(export.sequences):
        masks = folder / "Annotations" / _RESOLUTION / sequence.name
        omissions += _write_masks(sequence, range(sequence.num_frames), masks, void=True)
        images = folder / "JPEGImages" / _RESOLUTION / sequence.name
        write_pictures(export, sequence, range(sequence.num_frames), images)
    sets = folder / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    for part in export.parts:
        held = list(shown(export.of_part(part)))
        (sets / f"{part}.txt").write_text("".join(f"{one.name}\n" for one in held), encoding="utf-8")
        _write_expressions(
            folder, part, {one.name: _expressions(one, one.partly_decided(), own_frames=True) for one in held}
        )
    return omissions


def write_youtube_vos(export: Export, folder: Path) -> list[Omission]:
    """Write YouTube-VOS: ``<part>/JPEGImages``, ``<part>/Annotations`` and ``<part>/meta.json``.

    ``meta_expressions/<part>/meta_expressions.json`` holds the expressions as Ref-YouTube-VOS has them, so that
    ``steerseg evaluate`` and ``steerseg train`` read the folder as it is. Frames on which an object's whereabouts
    are unknown have a picture but no annotation, and are not among the expressions' frames. A task that has no other
    frames is left out, and so is the expression of an object that is seen on such frames alone.
    """
    omissions = unshown(export) + lost(export)
    for part in export.parts:
        videos: dict[str, Any] = {}
        expressions: dict[str, Any] = {}
        for sequence in shown(export.of_part(part)):
            frames = sequence.decided()
            if not frames:
                continue
            omissions += _write_masks(
                sequence, frames, folder / part / "Annotations" / sequence.name, void=False
            )
            images = folder / part / "JPEGImages" / sequence.name
            write_pictures(export, sequence, range(sequence.num_frames), images)
            videos[sequence.name] = {"objects": _objects(sequence, frames)}
            expressions[sequence.name] = _expressions(sequence, frames)
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "meta.json").write_bytes(json_bytes({"videos": videos}))
        _write_expressions(folder, part, expressions)
    return omissions


def _write_expressions(folder: Path, part: str, videos: dict[str, Any]) -> None:
    meta = folder / "meta_expressions" / part
    meta.mkdir(parents=True)
    (meta / "meta_expressions.json").write_bytes(json_bytes({"videos": videos}))


def _write_masks(
    sequence: LabelledSequence, frames: Iterable[int], folder: Path, *, void: bool
) -> list[Omission]:
    """Write the palette PNGs of some frames.

    Args:
        sequence: At most :data:`MAX_OBJECTS` objects.
        frames: Which frames.
        folder: Where to; made.
        void: See :func:`numbered`.

    Raises:
        ConfigError: It has more objects.
    """
    if len(sequence.objects) > MAX_OBJECTS:
        raise ConfigError(
            f"task {sequence.task_id} has {len(sequence.objects)} objects; pictures of one byte a pixel tell "
            f"{MAX_OBJECTS} apart: export it as coco"
        )
    hidden = Hidden(sequence)
    folder.mkdir(parents=True)
    for index in frames:
        picture = numbered(sequence, index, void=void)
        hidden.note(index, np.unique(picture).tolist())
        save_palette(picture, folder / f"{index:05d}.png")
    return hidden.omissions()


def _expressions(
    sequence: LabelledSequence, frames: list[int], *, own_frames: bool = False
) -> dict[str, Any]:
    """The expressions of objects that have one, as Ref-YouTube-VOS has them: an empty one would be asked for.

    Args:
        sequence: Whose.
        frames: Which frames the masks are of.
        own_frames: Whether each expression names the frames on which its object is decided.
    """
    return {
        "frames": _names(frames),
        "fps": sequence.fps,
        "expressions": {
            str(index): {
                "exp": object_.expression,
                "obj_id": str(index + 1),
                **({"frames": _names(sorted(object_.masks))} if own_frames else {}),
            }
            for index, object_ in enumerate(sequence.objects)
            if object_.expression and object_.masks and _is_held(object_, frames)
        },
    }


def _objects(sequence: LabelledSequence, frames: list[int]) -> dict[str, Any]:
    """Each object with the frames that show it."""
    return {
        str(number): {
            "category": object_.category,
            "frames": _names(index for index in frames if object_.masks[index].visible),
        }
        for number, object_ in enumerate(sequence.objects, start=1)
        if _is_held(object_, frames)
    }


def _is_held(object_: ExportedObject, frames: list[int]) -> bool:
    """Whether the frames show what any frame shows."""
    return object_.visible_on(frames) == object_.ever_visible


def _names(frames: Iterable[int]) -> list[str]:
    return [f"{index:05d}" for index in frames]
