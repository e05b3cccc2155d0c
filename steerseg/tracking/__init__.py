"""Point prompts -> tracklets: one driver over any segmenter, its memories and the masks that it packs."""

from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.opened import OpenVideos
from steerseg.tracking.tracker import Tracker
from steerseg.tracking.tracklets import Candidate, Prompt, Propagation, StageProgress, Tracklet

__all__ = [
    "Candidate",
    "EncodedVideo",
    "OpenVideos",
    "Prompt",
    "Propagation",
    "StageProgress",
    "Tracker",
    "Tracklet",
]
