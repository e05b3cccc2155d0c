"""``provenance.json``: for every object and frame, who made the mask and how sure it is; and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_backend.exporting.formats import Export
from ml_backend.exporting.labelled import LabelledSequence
from ml_backend.exporting.omissions import Omission, is_complete

PROVENANCE_FILE = "provenance.json"


def provenance(
    export: Export, format_: str, omissions: Sequence[Omission], warnings: Sequence[str]
) -> dict[str, Any]:
    """The content of the file.

    Args:
        export: What was written.
        format_: In which format.
        omissions: What is not in it.
        warnings: What is not as one might expect, though nothing is missing.
    """
    parts = {name: part for part, names in export.parts.items() for name in names}
    return {
        "project": export.project_id,
        "format": format_,
        "classes": list(export.classes.names),
        "complete": is_complete(omissions),
        "left_out": [
            {
                "task": omission.task_id or None,
                "annotation": omission.annotation_id,
                "object": omission.instance or None,
                "reason": omission.reason,
                "by_rule": omission.expected,
            }
            for omission in omissions
        ],
        "warnings": list(warnings),
        "sequences": {
            sequence.name: {"part": parts[sequence.name], **_described(sequence)}
            for sequence in export.sequences
        },
    }


def _described(sequence: LabelledSequence) -> dict[str, Any]:
    return {
        "task": sequence.task_id,
        "frames": sequence.num_frames,
        "stride": sequence.stride,
        "video_stride": sequence.video_stride,
        "fps": sequence.fps,
        "fps_known": sequence.knows_fps,
        "undecided": sequence.undecided(),
        "objects": {
            str(number): {
                "name": object_.name,
                "annotation": object_.annotation_id,
                "correction": object_.correction_id,
                "category": object_.category,
                "expression": object_.expression,
                "proposed_by": object_.version,
                "masks": {
                    str(index): {
                        "from": str(mask.provenance),
                        "visible": mask.visible,
                        "confidence": round(mask.confidence, 4),
                        "drawn_as_box": mask.from_box,
                        "iou_with_proposal": mask.iou,
                    }
                    for index, mask in object_.masks.items()
                },
            }
            for number, object_ in enumerate(sequence.objects, start=1)
        },
    }
