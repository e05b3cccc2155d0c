"""Single frames of media, small, kept on disk: a page shows dozens, and each would need its whole video decoded."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml_backend.label_studio.task_media import Media
from ml_backend.web.pages.drawings import scaled
from steerseg.errors import VideoError
from steerseg.runtime.artefacts import explained, write_bytes
from steerseg.video import VideoLimits
from steerseg.video.isolation import IsolatedDecoder

Image3 = NDArray[np.uint8]

SIDE = 480
"""Pixels of the longer side."""
_KEPT = 3000  # files: about 40 KiB each
_QUALITY = 90


class Thumbnails:
    """Small frames of media. Safe to share between threads; one video is decoded at a time.

    Args:
        data_dir: The backend's data folder; frames are kept in ``thumbnails/`` below it.
        limits: Limits of the media.
    """

    def __init__(self, data_dir: Path, limits: VideoLimits) -> None:
        self._folder = data_dir / "thumbnails"
        self._decoder = IsolatedDecoder(limits)
        self._decoding = threading.Lock()

    def frame(
        self, media: Callable[[], Media], digest: str, frame: int, others: Collection[int] = ()
    ) -> Image3:
        """One frame of media, small.

        Args:
            media: The media; called where the frame is not kept, since it may have to be fetched.
            digest: Digest of the media.
            frame: Decode index of the frame.
            others: Frames of the same media that will be wanted soon; the same decoding keeps them.

        Raises:
            VideoError: The media cannot be had, or have no such frame.
            ArtefactError: The disk is full or not writable.
        """
        kept = self._read(digest, frame)
        if kept is not None:
            return kept
        with self._decoding:
            kept = self._read(digest, frame)  # someone else may have been as quick
            if kept is not None:
                return kept
            found = self._decode(media(), {frame, *others})
            if frame not in found:
                raise VideoError(f"the media have no frame {frame + 1}; they were replaced")
            self._keep(digest, found)
        return found[frame]

    def _decode(self, media: Media, wanted: Collection[int]) -> dict[int, Image3]:
        frames = self._decoder.load_video(media.path).frames
        return {index: scaled(frames[index], SIDE) for index in sorted(wanted) if 0 <= index < len(frames)}

    def _path(self, digest: str, frame: int) -> Path:
        name = hashlib.sha256(digest.encode()).hexdigest()[:24]
        return self._folder / f"{name}-{frame}.jpg"

    def _read(self, digest: str, frame: int) -> Image3 | None:
        path = self._path(digest, frame)
        try:
            with Image.open(path) as image:
                picture = np.array(image.convert("RGB"), dtype=np.uint8)
            os.utime(path)
        except OSError:  # it is not kept, or damaged: it is made anew
            return None
        return picture

    def _keep(self, digest: str, found: Mapping[int, Image3]) -> None:
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for frame, picture in found.items():
                write_bytes(self._path(digest, frame), jpeg(picture, _QUALITY))
            kept = list(self._folder.glob("*.jpg"))
            if len(kept) > _KEPT:
                kept.sort(key=lambda path: path.stat().st_mtime)
                for old in kept[: len(kept) - _KEPT]:
                    old.unlink(missing_ok=True)


def jpeg(picture: Image3, quality: int = 85) -> bytes:
    """A picture as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
