"""Videos: read, decoded with their times, kept, written and downloaded."""

from steerseg.video.decoding import DEFAULT_LIMITS, FileKind, VideoLimits, file_kind
from steerseg.video.loading import (
    IMAGE_SUFFIXES,
    Progress,
    Video,
    frame_files,
    keyframe_indices,
    load_frames,
    load_video,
    video_from_frames,
    write_video,
)

__all__ = [
    "DEFAULT_LIMITS",
    "IMAGE_SUFFIXES",
    "FileKind",
    "Progress",
    "Video",
    "VideoLimits",
    "file_kind",
    "frame_files",
    "keyframe_indices",
    "load_frames",
    "load_video",
    "video_from_frames",
    "write_video",
]
