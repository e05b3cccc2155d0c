"""The video side of a labelling configuration."""

from __future__ import annotations

from ml_backend.label_studio.config import VIDEO_EXAMPLE, parse_controls
from ml_backend.label_studio.controls import VideoSide


def video_side() -> VideoSide:
    """The side that the example configuration has."""
    side = parse_controls(VIDEO_EXAMPLE).video
    assert side is not None
    return side
