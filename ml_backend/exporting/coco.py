"""COCO's JSON: images, categories, instances as compressed run lengths; with videos and tracks beside them.

``annotations.json`` is what :class:`pycocotools.coco.COCO` opens. Beyond COCO, images name their ``video_id`` and
``frame_index``, and instances their ``track_id``, ``expression``, ``provenance`` and ``confidence``. A frame on
which anybody's whereabouts are unknown is left out: what an image does not list is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_backend.exporting.formats import Export, picture_name, write_pictures
from ml_backend.exporting.labelled import LabelledSequence
from steerseg.masks import decode_rle, mask_area, mask_box
from steerseg.runtime.artefacts import json_bytes


def write_coco(export: Export, folder: Path) -> None:
    """Write ``annotations.json`` and ``images/<sequence>/<frame>.jpg``."""
    content: dict[str, Any] = {
        "info": {"description": f"Label Studio project {export.project_id}", "version": "1.0"},
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(export.classes, start=1)
        ],
        "videos": [],
        "images": [],
        "annotations": [],
    }
    tracks = 0
    for video, sequence in enumerate(export.sequences, start=1):
        frames = sequence.decided()
        numbers = range(tracks + 1, tracks + 1 + len(sequence.objects))
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
        for index in frames:
            _add_frame(content, export, sequence, index, video, numbers)
        write_pictures(export, sequence, frames, folder / "images" / sequence.name)
    (folder / "annotations.json").write_bytes(json_bytes(content))


def _add_frame(
    content: dict[str, Any], export: Export, sequence: LabelledSequence, index: int, video: int, tracks: range
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
                "category_id": export.class_number(object_.category),
                "track_id": track,
                "segmentation": dict(mask.rle),
                "area": mask_area(mask.rle),
                "bbox": mask_box(decode_rle(mask.rle)),
                "iscrowd": 0,
                "expression": object_.expression,
                "provenance": str(mask.provenance),
                "confidence": round(mask.confidence, 4),
            }
        )
