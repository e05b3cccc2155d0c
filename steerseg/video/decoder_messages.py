"""What a process that decodes is asked, and what it answers: one JSON object a line.

Only the answers come from a process that works on a stranger's file, so they are checked, and never pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from steerseg.video.decoding import VideoLimits


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DecodeRequest(_Message):
    """Decode a file or a folder of frames, or only read the times of a file's frames.

    Attributes:
        path: The file or folder.
        limits: Its limits.
        memory: Bytes of memory that the process may take beyond those that it has.
        stride: Every ``stride``-th frame is kept.
        fps: Frames a second of a folder.
        times_only: Whether only the times of the frames are wanted.
    """

    path: Path
    limits: VideoLimits
    memory: int
    stride: int = 1
    fps: float | None = None
    times_only: bool = False


class DecodeProgress(_Message):
    """How far it is; see :data:`steerseg.video.Progress`."""

    kind: Literal["progress"] = "progress"
    stage: str = Field(max_length=100)
    fraction: float


class DecodedFrames(_Message):
    """The frames are written; see :class:`steerseg.video.Video`.

    Attributes:
        shape: (T, H, W, 3).
        on_disk: Whether they are in the file on disk.
        pts: (T,) seconds.
        fps: Frames a second.
        digest: Of content and options.
    """

    kind: Literal["frames"] = "frames"
    shape: tuple[
        Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Literal[3]
    ]
    on_disk: bool
    pts: list[float]
    fps: float = Field(gt=0)
    digest: str = Field(pattern="^[0-9a-f]{64}$")


class FrameTimes(_Message):
    """The times of the frames; see :class:`steerseg.video.player.PlayerTimeline`."""

    kind: Literal["times"] = "times"
    times: list[float] = Field(min_length=1)
    duration: float
    end: float
    start: float
    entries: list[float]
    entry_frames: list[int]


class DecodeFailure(_Message):
    """It cannot be decoded.

    Attributes:
        error: Name of the type in :mod:`steerseg.errors`.
        message: Text for a person.
    """

    kind: Literal["failure"] = "failure"
    error: Literal["VideoError", "ArtefactError"]
    message: str


DecoderReport = DecodeProgress | DecodedFrames | FrameTimes | DecodeFailure
_REPORT: TypeAdapter[DecoderReport] = TypeAdapter(Annotated[DecoderReport, Field(discriminator="kind")])


def read_report(line: bytes) -> DecoderReport:
    """Read a line that a process wrote.

    Raises:
        ValueError: It is no report.
    """
    return _REPORT.validate_json(line)
