"""In the model process: examples of a refinement, decoded: their video, and what is known about its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_backend.models.examples import CorrectionExample, Example, Masks, ReplayExample
from ml_backend.models.messages import MediaFile
from steerseg.errors import ConfigError, VideoError
from steerseg.masks import decode_rle
from steerseg.presets import Preset
from steerseg.replay import ReplayClip, ReplaySource
from steerseg.training.replay import open_replay
from steerseg.video import Progress, Video
from steerseg.video.isolation import IsolatedDecoder


@dataclass(frozen=True)
class DecodedExample:
    """A decoded example.

    Attributes:
        video: Its video.
        expression: What is asked for.
        truth: Gives the (n, H, W) masks of n frames; empty where nothing is known.
        judged: Frames that a candidate is judged by.
        share: How much the truth of a frame counts, in [0, 1]; 0 where nothing is known.
        rejected: Masks that are wrong answers.
    """

    video: Video
    expression: str
    truth: Callable[[Sequence[int]], NDArray[np.bool_]]
    judged: Sequence[int]
    share: Callable[[int], float]
    rejected: Sequence[Masks]

    def rejected_on(self, frames: Sequence[int]) -> NDArray[np.bool_] | None:
        """The (m, n, H, W) masks of the m wrong answers on n frames; ``None`` where there are none."""
        if not self.rejected:
            return None
        size = (self.video.height, self.video.width)
        return np.stack([_on_frames(masks, frames, size) for masks in self.rejected])


class ExampleDecoder:
    """Decodes corrections from their media, and clips from the preset's replay set.

    Args:
        preset: Names the replay set.
        decoder: Decodes media.
    """

    def __init__(self, preset: Preset, decoder: IsolatedDecoder) -> None:
        self._preset = preset
        self._decoder = decoder
        self._replay: ReplaySource | None = None

    def decode(self, example: Example, media: MediaFile | None, progress: Progress) -> DecodedExample:
        """Decode one example.

        Args:
            example: The example.
            media: The media of a correction.
            progress: Called with stage and fraction.

        Raises:
            VideoError: The media cannot be read, or is not what was corrected.
            ConfigError: The preset has nothing to replay.
        """
        if isinstance(example, CorrectionExample):
            return self._correction(example, media, progress)
        clip = self._clip(example)
        return DecodedExample(
            clip.video,
            clip.expression,
            lambda frames: clip.masks[list(frames)],
            range(len(clip.masks)),
            lambda frame: 1.0,
            (),
        )

    def _correction(
        self, example: CorrectionExample, media: MediaFile | None, progress: Progress
    ) -> DecodedExample:
        if media is None:
            raise VideoError(f"the media of {example.key} is not there")
        video = self._decoder.load_video(media.path, fps=media.fps, progress=progress)
        expected = (example.num_frames, example.height, example.width)
        if video.frames.shape[:3] != expected:
            raise VideoError(
                f"the media has {video.frames.shape[0]} frames of {video.width}x{video.height}, the masks "
                f"are for {expected[0]} of {expected[2]}x{expected[1]}: it was changed since"
            )
        return DecodedExample(
            video,
            example.expression,
            lambda frames: _on_frames(example.truth, frames, expected[1:]),
            sorted(example.decided),
            lambda frame: example.shares.get(frame, 0.0) if frame in example.truth else 0.0,
            example.rejected,
        )

    def _clip(self, example: ReplayExample) -> ReplayClip:
        if self._replay is None:
            spec = self._preset.replay
            if spec is None:
                raise ConfigError(f"preset {self._preset.name!r} has nothing to replay")
            self._replay = open_replay(spec)
        return self._replay(example.part, example.index)


def _on_frames(masks: Masks, frames: Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
    """(n, H, W) masks of n frames; empty where nothing is known."""
    stack = np.zeros((len(frames), *size), dtype=bool)
    for position, frame in enumerate(frames):
        rle = masks.get(frame)
        if rle is not None:
            stack[position] = decode_rle(rle)
    return stack
