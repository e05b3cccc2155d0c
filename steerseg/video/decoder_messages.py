"""What a process that decodes is asked, and what it answers: one JSON object a line.

Only the answers come from a process that works on a stranger's file, so they are checked, and never pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from steerseg.video.decoding import FileKind, VideoLimits


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DecodeRequest(_Message):
    """Decode a file or a folder of frames, or only look at a file.

    Attributes:
        path: The file or folder.
        limits: Its limits.
        memory: Bytes of memory that the process may take beyond those that it has.
        stride: Every ``stride``-th frame is kept.
        fps: Frames a second of a folder.
        wanted: Frames go to the shared file, pictures follow one after the other; times and kind are of a file.
        square: Of pictures: see :class:`steerseg.video.decoding.FrameStream`.
        one_size: Of pictures: whether those of a folder must have one size.
    """

    path: Path
    limits: VideoLimits
    memory: int
    stride: int = 1
    fps: float | None = None
    wanted: Literal["frames", "pictures", "times", "kind"] = "frames"
    square: bool = True
    one_size: bool = True


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


class DecodedPicture(_Message):
    """A picture, whose bytes follow.

    Attributes:
        shape: (H, W, 3).
    """

    kind: Literal["picture"] = "picture"
    shape: tuple[Annotated[int, Field(ge=1, le=2**16)], Annotated[int, Field(ge=1, le=2**16)], Literal[3]]


class PicturesEnd(_Message):
    """All pictures were given; see :class:`steerseg.video.streaming.PictureStream`."""

    kind: Literal["end"] = "end"
    pts: list[float]
    fps: float = Field(gt=0)
    digest: str = Field(pattern="^[0-9a-f]{64}$")


class FoundKind(_Message):
    """What a file is.

    Attributes:
        found: Container and codec.
    """

    kind: Literal["kind"] = "kind"
    found: FileKind


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


DecoderReport = (
    DecodeProgress | DecodedFrames | DecodedPicture | PicturesEnd | FrameTimes | FoundKind | DecodeFailure
)
_REPORT: TypeAdapter[DecoderReport] = TypeAdapter(Annotated[DecoderReport, Field(discriminator="kind")])


def read_report(line: bytes) -> DecoderReport:
    """Read a line that a process wrote.

    Raises:
        ValueError: It is no report.
    """
    return _REPORT.validate_json(line)
