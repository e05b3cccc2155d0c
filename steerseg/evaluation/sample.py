"""One (clip, expression) of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from steerseg.errors import ConfigError
from steerseg.evaluation.truth import Masks, Truth
from steerseg.video import Video, VideoLimits, load_frames

# A dataset on disk is trusted more than what a stranger sends to a server.
LIMITS = VideoLimits(max_bytes=32 * 2**30, max_frames=100_000, max_memory=32 * 2**30)


@dataclass(frozen=True)
class Sample:
    """One (clip, expression) with its ground truth on disk.

    Attributes:
        id: Unique in the split: ``video/expression``.
        video: The clip's name, which may have slashes; samples of one clip follow each other.
        folder: Folder of its JPEG frames.
        frames: Frame names without suffix, in order; expressions of one clip may have others.
        fps: Frames a second.
        expression: The expression.
        truth: Reads the masks of its targets; ``None`` where only the dataset's server knows them.
        objects: The dataset's ids of the targets.
        kind: Kind of expression, "" where the dataset has none.
        name: Name of the target, "" where the dataset has none.
        attributes: Ground-truth attributes, empty where the dataset has none.
        twin: Whether another object of the clip has the same name.
    """

    id: str
    video: str
    folder: Path
    frames: tuple[str, ...] = field(repr=False)
    fps: float
    expression: str
    truth: Truth | None
    objects: tuple[int, ...] = ()
    kind: str = ""
    name: str = ""
    attributes: tuple[str, ...] = ()
    twin: bool = False

    @property
    def clip(self) -> tuple[str, tuple[str, ...]]:
        """What samples of the same pictures share: the clip's name, and which of its frames are theirs."""
        return self.video, self.frames

    def load(self, frames: Sequence[int] | None = None) -> Video:
        """The clip: exactly the frames that the dataset lists, whatever else the folder holds.

        Args:
            frames: Only these, as a clip of their own whose times are not those of the whole; all where left
                out.

        Raises:
            VideoError: A frame is missing or cannot be read.
        """
        chosen = range(len(self.frames)) if frames is None else frames
        files = [self.folder / f"{self.frames[frame]}.jpg" for frame in chosen]
        return load_frames(files, fps=self.fps, source=str(self.folder), limits=LIMITS)

    def targets(self, frames: Sequence[int] | None = None) -> Iterator[Masks]:
        """The true masks of each target, (T, H, W), one target after the other.

        Args:
            frames: Only on these frames; all where left out.

        Raises:
            ConfigError: There is no ground truth, or a mask is missing or damaged.
        """
        if self.truth is None:
            raise ConfigError(f"{self.id} comes without ground truth; only the dataset's server has it")
        yield from self.truth.targets(self._chosen(frames), self._size())

    def masks(self, frames: Sequence[int] | None = None) -> Masks:
        """The true masks of all targets together, (T, H, W); see :meth:`targets`."""
        union = np.zeros((len(self._chosen(frames)), *self._size()), dtype=bool)
        for target in self.targets(frames):
            union |= target
        return union

    def void(self, frames: Sequence[int] | None = None) -> Masks | None:
        """Pixels (T, H, W) that count for nothing; ``None`` where there are none, or no ground truth."""
        return None if self.truth is None else self.truth.void(self._chosen(frames), self._size())

    def _chosen(self, frames: Sequence[int] | None) -> Sequence[int]:
        return range(len(self.frames)) if frames is None else frames

    def _size(self) -> tuple[int, int]:
        """Height and width of the frames, from the header of the first."""
        file = self.folder / f"{self.frames[0]}.jpg"
        try:
            with Image.open(file) as image:
                return image.height, image.width
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error}; complete the dataset") from error


def split_digest(samples: Sequence[Sample]) -> str:
    """Digest of a split's clips and expressions, wherever they lie on disk."""
    state = hashlib.sha256()
    for sample in samples:
        identity = (sample.id, sample.frames, sample.expression, sample.objects, sample.kind, sample.name)
        state.update(repr(identity).encode())
    return state.hexdigest()[:16]
