"""Corrections of which a test names what it is about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ml_backend.corrections.records import Correction


def bare_correction(number: int = 1, **fields: Any) -> Correction:
    """The only instance of annotation ``number`` of task 5, with other fields where named; it shows nothing."""
    values: dict[str, Any] = {
        "id": number,
        "revision": "",
        "project_id": 1,
        "task_id": 5,
        "annotation_id": number,
        "object": "zebra",
        "expression": "the zebra",
        "media_digest": "d",
        "task_data": {},
        "label_config": "",
        "side": "frames",
        "num_frames": 1,
        "height": 1,
        "width": 1,
        "frames": {},
        "propagated": {},
        "proposed": None,
        "verdict": None,
        "lead_time": None,
        "created_at": None,
        "updated_at": None,
        "changed_at": datetime(2026, 11, 28, tzinfo=UTC),
    }
    return Correction(**(values | fields))
