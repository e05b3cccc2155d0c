"""Visual tokens of a video or of pictures, as a vision tower made them, and their grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from steerseg.runtime.memory import to_device

VisionKind = Literal["image", "video"]


@dataclass(frozen=True)
class Timing:
    """When the frames of a video are, as a model is told.

    Attributes:
        seconds_per_slice: Seconds between two slices of the video's grid.
        times: Seconds of each frame since the video began.
        duration: Seconds of the video.
    """

    seconds_per_slice: float
    times: tuple[float, ...]
    duration: float

    @classmethod
    def even(cls, frames: int, seconds_per_slice: float, temporal_merge: int) -> Timing:
        """Frames that are spread evenly, ``temporal_merge`` of them a slice."""
        apart = seconds_per_slice / temporal_merge
        return cls(seconds_per_slice, tuple(index * apart for index in range(frames)), frames * apart)

    @property
    def metadata(self) -> dict[str, Any]:
        """The same for a processor, which reads a frame's time from its index: of a video of one frame a second."""
        return {
            "total_num_frames": len(self.times),
            "fps": 1.0,
            "duration": self.duration,
            "frames_indices": list(self.times),
        }


@dataclass(frozen=True)
class VisionFeatures:
    """Visual tokens of one video, or of N images of one size, as the vision tower made them.

    Attributes:
        kind: ``"video"`` for one video, ``"image"`` for N separate pictures.
        tokens: (N, L, d) in the order of the chat, N = 1 for a video. Some families have tokens off the grid, such as
            newlines and thumbnails, so that L >= t * h * w.
        grid: (t, h, w) of the visual tokens; t = 1 for images.
        seconds_per_slice: Seconds between two slices of a video's grid.
        text: The chat's text for the video, or for each picture.
        deep: (N, D, L, d) features that D further text layers add to the tokens; ``None`` for most families.
    """

    kind: VisionKind
    tokens: torch.Tensor
    grid: tuple[int, int, int]
    seconds_per_slice: float
    text: str
    deep: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of pictures N; 1 for a video."""
        return self.tokens.shape[0]

    def __getitem__(self, part: slice | list[int]) -> VisionFeatures:
        """Some of the images."""
        return replace(self, tokens=self.tokens[part], deep=None if self.deep is None else self.deep[part])

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return self.tokens.nbytes + (0 if self.deep is None else self.deep.nbytes)

    @property
    def layout(self) -> tuple[object, ...]:
        """Key of what features share that can go through the text model together."""
        return self.kind, self.grid, self.seconds_per_slice, self.text

    def to(self, device: torch.device) -> VisionFeatures:
        """The same features on another device; a GPU goes on with what it does meanwhile."""
        deep = None if self.deep is None else to_device(self.deep, device)
        return replace(self, tokens=to_device(self.tokens, device), deep=deep)

    def expand(self, rows: int) -> VisionFeatures:
        """One video for ``rows`` chats about it; features that are ``rows`` already stay as they are."""
        if len(self) == rows:
            return self
        deep = None if self.deep is None else self.deep.expand(rows, -1, -1, -1)
        return replace(self, tokens=self.tokens.expand(rows, -1, -1), deep=deep)

    @classmethod
    def join(cls, parts: Sequence[VisionFeatures]) -> VisionFeatures:
        """Features of one layout, one after the other."""
        deep = [part.deep for part in parts if part.deep is not None]
        tokens = torch.cat([part.tokens for part in parts])
        return replace(parts[0], tokens=tokens, deep=torch.cat(deep) if deep else None)

    # --- for files: named tensors and a JSON-ready card

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors, under names that begin with ``name``."""
        deep = {} if self.deep is None else {f"{name}.deep": self.deep}
        return {name: self.tokens, **deep}

    @property
    def card(self) -> dict[str, Any]:
        """Everything but the tensors, ready for JSON."""
        return {
            "kind": self.kind,
            "grid": list(self.grid),
            "seconds": self.seconds_per_slice,
            "text": self.text,
        }

    @classmethod
    def from_parts(
        cls, card: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], name: str
    ) -> VisionFeatures:
        """Put together what :attr:`card` and :meth:`tensors` took apart."""
        time, height, width = card["grid"]
        return cls(
            kind=card["kind"],
            tokens=tensors[name],
            grid=(time, height, width),
            seconds_per_slice=card["seconds"],
            text=card["text"],
            deep=tensors.get(f"{name}.deep"),
        )
