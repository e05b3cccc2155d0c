"""A proposal as pictures, drawn when they are looked at from what the proposal stores and the task's media."""

from __future__ import annotations

import enum
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ml_backend.label_studio.task_media import Media
from ml_backend.proposals import Grid, StoredPoint, StoredProposal
from ml_backend.web.pages.drawings import Image3, scaled, with_masks
from ml_backend.web.pages.thumbnails import jpeg
from steerseg.errors import VideoError
from steerseg.output.drawing import heat_overlay, rank_colour
from steerseg.runtime.artefacts import explained, move_into_place
from steerseg.runtime.lru import LruCache
from steerseg.video import VideoLimits, write_video
from steerseg.video.isolation import IsolatedDecoder

_KEYFRAME_SIDE = 480  # pixels of the longer side of what is shown
_OVERLAY_SIDE = 960
_MOST_OVERLAY_FRAMES = 1500
_KEPT_SHEETS = 4  # proposals whose keyframes stay in memory: a few MiB each
_KEPT_OVERLAYS = 24
_INK = (20, 20, 24)


class View(enum.StrEnum):
    """What a keyframe's picture shows."""

    FRAME_MAP = "frame-map"
    VIDEO_MAP = "video-map"
    POINTS = "points"
    MASKS = "masks"


@dataclass(frozen=True)
class ShownProposal:
    """A proposal and its media.

    Attributes:
        path: The proposal's file, which stands for its content.
        proposal: What it holds.
        media: The media; called when pictures are drawn, since it may have to be fetched.
    """

    path: str
    proposal: StoredProposal
    media: Callable[[], Media] = field(repr=False)


class ProposalPictures:
    """Draws proposals. Safe to share between threads; one draws at a time, so that requests are answered meanwhile.

    Args:
        data_dir: The backend's data folder; overlays are kept in ``overlays/`` below it.
        limits: Limits of the media.
    """

    def __init__(self, data_dir: Path, limits: VideoLimits) -> None:
        self._decoder = IsolatedDecoder(limits)
        self._folder = data_dir / "overlays"
        self._drawing = threading.Lock()
        self._sheets = LruCache[str, dict[int, Image3]](_KEPT_SHEETS)

    def keyframe(self, shown: ShownProposal, index: int, view: View) -> bytes:
        """One keyframe as a JPEG.

        Args:
            shown: The proposal.
            index: Which of its keyframes, from 0.
            view: What to show.

        Raises:
            IndexError: It has no such keyframe, or no such map.
            SteerSegError: The media cannot be had.
        """
        proposal = shown.proposal
        frame = proposal.maps.keyframes[index]
        grid = map_of(proposal, view)
        image = self._frames(shown)[frame]
        if grid is not None:
            # A video map has one slice for two keyframes.
            heat = np.array(grid[index * len(grid) // len(proposal.maps.keyframes)], dtype=np.float32)
            picture = heat_overlay(image, heat * (np.float32(0.55) if view is View.POINTS else 1))
        else:
            picture = image
        if view is View.POINTS:
            picture = _with_points(picture, proposal, frame)
        elif view is View.MASKS:
            picture = with_masks(picture, [one.rles[frame] for one in proposal.tracklets])
        return jpeg(picture)

    def overlay(self, shown: ShownProposal) -> Path:
        """The video with the best tracklet tinted and the others outlined, as an MP4 that browsers play.

        Long videos are cut off after their first :data:`_MOST_OVERLAY_FRAMES` frames.

        Raises:
            SteerSegError: The media cannot be had, or the file not be written.
        """
        name = hashlib.sha256(shown.path.encode()).hexdigest()[:32]
        path = self._folder / f"{name}.mp4"
        with self._drawing:
            if path.is_file():
                os.utime(path)
                return path
            proposal = shown.proposal
            frames = islice(self._decoder.load_video(shown.media().path).frames, _MOST_OVERLAY_FRAMES)
            with explained(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                partial = self._folder / f".partial-{name}.mp4"
                try:
                    count = min(len(proposal.pts), _MOST_OVERLAY_FRAMES)
                    write_video(partial, _overlaid(frames, proposal), proposal.fps, pts=proposal.pts[:count])
                    move_into_place(partial, path)
                finally:
                    partial.unlink(missing_ok=True)
                for old in sorted(self._folder.glob("*.mp4"), key=_age)[_KEPT_OVERLAYS:]:
                    old.unlink(missing_ok=True)
        return path

    def _frames(self, shown: ShownProposal) -> dict[int, Image3]:
        """The keyframes, small, by frame; of the proposals that were looked at last they are in memory."""
        with self._drawing:
            sheet = self._sheets.get(shown.path)
            if sheet is None:
                sheet = self._read_keyframes(shown)
                self._sheets.put(shown.path, sheet)
            return sheet

    def _read_keyframes(self, shown: ShownProposal) -> dict[int, Image3]:
        frames = self._decoder.load_video(shown.media().path).frames
        wanted = shown.proposal.maps.keyframes
        if max(wanted, default=0) >= len(frames):
            raise VideoError("the task's media have fewer frames than the proposal; predict the task again")
        return {index: scaled(frames[index], _KEYFRAME_SIDE) for index in sorted(set(wanted))}


def map_of(proposal: StoredProposal, view: View) -> Grid | None:
    """The grounding map that a view lays over the keyframes; ``None`` for none.

    Raises:
        IndexError: The proposal was made without this map.
    """
    match view:
        case View.FRAME_MAP:
            grid = proposal.maps.frame
        case View.VIDEO_MAP:
            grid = proposal.maps.video
        case View.POINTS:
            grid = proposal.maps.fused
        case View.MASKS:
            return None
    if grid is None:
        raise IndexError(f"the proposal has no {view}")
    return grid


def views(proposal: StoredProposal) -> list[View]:
    """What can be shown of a proposal."""
    absent = {View.FRAME_MAP: proposal.maps.frame is None, View.VIDEO_MAP: proposal.maps.video is None}
    return [view for view in View if not absent.get(view, False)]


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _overlaid(frames: Iterator[Image3], proposal: StoredProposal) -> Iterator[Image3]:
    for index, frame in enumerate(frames):
        yield with_masks(scaled(frame, _OVERLAY_SIDE), [one.rles[index] for one in proposal.tracklets])


def _with_points(image: Image3, proposal: StoredProposal, frame: int) -> Image3:
    """The points that were tried on a keyframe; those that began a tracklet in its colour, the winner's larger."""
    canvas = image.copy()
    ranks = {tracklet.prompt: rank for rank, tracklet in reversed(list(enumerate(proposal.tracklets)))}
    here = [point for point in proposal.points if point.frame == frame]
    for point in sorted(here, key=lambda point: (point in ranks, -ranks.get(point, 0), point.value)):
        _draw_point(canvas, point, ranks.get(point))
    return canvas


def _draw_point(canvas: Image3, point: StoredPoint, rank: int | None) -> None:
    height, width = canvas.shape[:2]
    centre = (round(point.x * (width - 1)), round(point.y * (height - 1)))
    radius = max(3, round(max(height, width) / 90)) + (3 if rank == 0 else 0)
    colour = (255, 255, 255) if rank is None else rank_colour(rank)
    cv2.circle(canvas, centre, radius + 2, _INK, -1, cv2.LINE_AA)
    cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_AA)
