"""SteerSeg: masks tracked over a video from a referring expression, steered by two learned soft prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerseg.config import PipelineConfig
    from steerseg.pipeline import SteerSeg
    from steerseg.proposal import Proposal
    from steerseg.video import Video, load_video

__version__ = "0.1.0"

__all__ = ["PipelineConfig", "Proposal", "SteerSeg", "Video", "load_video"]

_HOMES = {
    "PipelineConfig": "steerseg.config",
    "Proposal": "steerseg.proposal",
    "SteerSeg": "steerseg.pipeline",
    "Video": "steerseg.video.loading",
    "load_video": "steerseg.video.loading",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the server and the command line start without loading torch."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'steerseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
