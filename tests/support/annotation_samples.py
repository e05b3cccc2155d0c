"""Annotations as Label Studio sends them, made of masks and boxes, for tests of corrections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.regions import tracklet_to_frames_regions
from ml_backend.label_studio.results import instance_id
from ml_backend.proposals import StoredPoint, StoredTracklet
from steerseg.masks import encode_rle

HEIGHT, WIDTH = 36, 64
PAGES = 12

_MASK_TAGS = {
    "brush": "BrushLabels",
    "bitmask": "BitmaskLabels",
    "polygon": "PolygonLabels",
    "vector": "VectorLabels",
}


def frames_config(kind: str = "brush") -> str:
    tag = _MASK_TAGS[kind]
    return f"""<View><Image name="frames" valueList="$frames"/>
<TextArea name="expression" toName="frames"/><TextArea name="status" toName="frames" maxSubmissions="0"/>
<Choices name="verdict" toName="frames"><Choice value="Accept"/><Choice value="Reject"/>
<Choice value="Not visible" alias="not visible"/></Choices>
<{tag} name="mask" toName="frames"><Label value="object 1"/><Label value="object 2"/></{tag}></View>"""


VIDEO_CONFIG = """<View><Video name="video" value="$video" frameRate="$fps"/>
<TextArea name="expression" toName="video"/><VideoRectangle name="box" toName="video"/>
<Labels name="label" toName="video"><Label value="object 1"/><Label value="object 2"/></Labels>
<TextArea name="own" toName="video" perRegion="true" smart="true"/>
<Choices name="verdict" toName="video"><Choice value="Accept"/><Choice value="Reject"/></Choices></View>"""

FRAMES_DATA: dict[str, Any] = {
    "frames": [f"/data/local-files/?d=clip/{page:05}.jpg" for page in range(PAGES)],
    "expr": "the red ball",
}
VIDEO_DATA: dict[str, Any] = {"video": "/data/upload/1/clip.mp4", "fps": 25, "expr": "the red ball"}


def square(x: int, y: int = 4, side: int = 10) -> NDArray[np.bool_]:
    """A page with one square on it."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def mask_regions(
    masks: Mapping[int, NDArray[np.bool_]],
    kind: str = "brush",
    *,
    task: int = 5,
    proposed: bool = True,
    origin: str = "prediction",
    label: str | None = None,
    expression: str = "the red ball",
) -> list[dict[str, Any]]:
    """Mask regions as a prediction of ours has them, or as an annotator draws them."""
    side = parse_controls(frames_config(kind)).frames
    assert side is not None
    tracklet = StoredTracklet(
        rles=tuple(encode_rle(mask) for mask in masks.values()),
        frame_scores=np.ones(len(masks), dtype=np.float32),
        prompt=StoredPoint(0, 0.5, 0.5, 1.0),
        score=0.8,
    )
    results = tracklet_to_frames_regions(
        tracklet,
        side,
        instance_id=instance_id(task, "", 0) if proposed else f"drawn-{label}",
        expression=expression,
        label=label or "object 1",
        pages=list(masks),
    )
    for result in results:
        result["origin"] = origin if proposed else "manual"
        if not proposed:
            del result["meta"], result["score"]
    return results


def track(
    keyframes: Mapping[int, tuple[float, float, float, float]],
    *,
    number: str = "track1",
    label: str = "object 1",
    last_enabled: bool = True,
    frames_count: int = PAGES,
    **extra: Any,
) -> dict[str, Any]:
    """A box track with boxes in percent by frame from 0."""
    frames = sorted(keyframes)
    return {
        "id": number,
        "from_name": "box",
        "to_name": "video",
        "type": "videorectangle",
        "origin": "manual",
        "value": {
            "framesCount": frames_count,
            "duration": frames_count / 25,
            "labels": [label],
            "sequence": [
                {
                    "frame": frame + 1,
                    "enabled": frame != frames[-1] or last_enabled,
                    "rotation": 0,
                    **dict(zip(("x", "y", "width", "height"), keyframes[frame], strict=True)),
                }
                for frame in frames
            ],
        },
        **extra,
    }


def choice(value: str, to_name: str = "frames") -> dict[str, Any]:
    return {
        "id": "v",
        "from_name": "verdict",
        "to_name": to_name,
        "type": "choices",
        "value": {"choices": [value]},
    }


def typed(text: str, to_name: str = "frames") -> dict[str, Any]:
    return {
        "id": "e",
        "from_name": "expression",
        "to_name": to_name,
        "type": "textarea",
        "value": {"text": [text]},
    }


def annotation(
    results: list[dict[str, Any]], number: int = 7, *, minute: int = 0, **fields: Any
) -> dict[str, Any]:
    """An annotation of task 5 in project 1."""
    return {
        "id": number,
        "task": 5,
        "project": 1,
        "result": results,
        "was_cancelled": False,
        "created_at": "2026-11-22T15:00:00.000000Z",
        "updated_at": f"2026-11-22T15:{minute:02}:00.000000Z",
        "lead_time": 12.5,
        "parent_prediction": None,
        **fields,
    }


def event_body(
    action: str,
    annotated: Any,
    *,
    data: dict[str, Any] | None = None,
    config: str | None = None,
    key: str = "annotation",
) -> dict[str, Any]:
    """A webhook's body."""
    return {
        "action": action,
        key: annotated,
        "task": {"id": 5, "data": data or FRAMES_DATA},
        "project": {"id": 1, "label_config": config or frames_config()},
    }
