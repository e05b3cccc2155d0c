"""COCO's JSON: images, categories, instances as compressed run lengths; with videos and tracks beside them.

``annotations.json`` is what :class:`pycocotools.coco.COCO` opens; a split has ``annotations/instances_<part>.json``
for each part in its place. Categories are numbered from 1, unless the configuration numbers them. Beyond COCO, images
name their ``video_id`` and ``frame_index``, and instances their ``track_id``, ``expression``, ``provenance`` and
``score``, which is the mask's confidence (FiftyOne refuses files that call it so). A frame on which anybody's
whereabouts are unknown is left out: what an image does not list is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_backend.exporting.classes import ClassTable
from ml_backend.exporting.formats import Export, lost, picture_name, write_pictures
from ml_backend.exporting.labelled import LabelledSequence
from ml_backend.exporting.omissions import Omission
from steerseg.masks import decode_rle, mask_area, mask_box
from steerseg.runtime.artefacts import json_bytes


def coco_numbers(classes: ClassTable) -> dict[str, int]:
    """The ids of categories; those that the configuration does not number count from 1."""
    return classes.numbers(first=1)


def write_coco(export: Export, folder: Path) -> list[Omission]:
    """Write the JSON files, and ``images/<sequence>/<frame>.jpg``; return what is seen on no frame that is held."""
    for part in export.parts:
        file = folder / (f"annotations/instances_{part}.json" if export.is_split else "annotations.json")
        file.parent.mkdir(exist_ok=True)
        held = [sequence for sequence in export.of_part(part) if sequence.decided()]
        file.write_bytes(json_bytes(_content(export, held)))
    for sequence in export.sequences:
        write_pictures(export, sequence, sequence.decided(), folder / "images" / sequence.name)
    return lost(export)


def _content(export: Export, sequences: Sequence[LabelledSequence]) -> dict[str, Any]:
    numbers = coco_numbers(export.classes)
    content: dict[str, Any] = {
        "info": {"description": f"Label Studio project {export.project_id}", "version": "1.0"},
        "licenses": [],
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()],
        "videos": [],
        "images": [],
        "annotations": [],
    }
    tracks = 0
    for video, sequence in enumerate(sequences, start=1):
        ids = range(tracks + 1, tracks + 1 + len(sequence.objects))
        tracks += len(sequence.objects)
        content["videos"].append(
            {
                "id": video,
                "name": sequence.name,
                "width": sequence.width,
                "height": sequence.height,
                "length": sequence.num_frames,
                "fps": sequence.fps,
            }
        )
        for index in sequence.decided():
            _add_frame(content, numbers, sequence, index, video, ids)
    return content


def _add_frame(
    content: dict[str, Any],
    numbers: Mapping[str, int],
    sequence: LabelledSequence,
    index: int,
    video: int,
    tracks: range,
) -> None:
    image = len(content["images"]) + 1
    content["images"].append(
        {
            "id": image,
            "file_name": f"{sequence.name}/{picture_name(index)}",
            "width": sequence.width,
            "height": sequence.height,
            "video_id": video,
            "frame_index": index,
        }
    )
    for track, object_ in zip(tracks, sequence.objects, strict=True):
        mask = object_.masks[index]
        if mask.rle is None or not mask.visible:
            continue
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": image,
                "video_id": video,
                "category_id": numbers[object_.category],
                "track_id": track,
                "segmentation": dict(mask.rle),
                "area": mask_area(mask.rle),
                "bbox": mask_box(decode_rle(mask.rle)),
                "iscrowd": 0,
                "expression": object_.expression,
                "provenance": str(mask.provenance),
                "score": round(mask.confidence, 4),
            }
        )
