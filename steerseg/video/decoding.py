"""Video files -> arrays, by PyAV: sequential decoding with time stamps, within limits.

Only decoding counts. Containers lie about frame counts, rates and order, so nothing but the size of the first
allocation and the refusal of oversized pictures is taken from a header.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from steerseg.errors import VideoError
from steerseg.runtime.cores import usable_cores
from steerseg.video.frame_file import FrameFile
from steerseg.video.frame_pictures import FramePictures

log = logging.getLogger(__name__)

SHORTAGES = (MemoryError, BlockingIOError)
"""What FFmpeg raises where the machine, or a limit, gives it no memory or no thread: the file is not to blame."""

IN_MEMORY = 512 * 2**20
"""Bytes of decoded frames that are held in memory; a video with more of them is held on disk."""

_MOST_THREADS = 4
"""Threads of a decoder. FFmpeg takes one a core: on a large server their stacks and frames alone exceed the memory that
a decoder is given."""

DEFAULT_FPS = 25.0
"""Frame rate of a folder of frames, or of a single frame, which have none of their own."""

# Only containers that hold their own content. FFmpeg also reads playlists (HLS, DASH, concat, SDP), which
# name further files and addresses to open, and renders text as video; neither may come from a stranger.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ivf,flv,live_flv,asf,asf_o,ogg,mxf,nut,dv,gif,rm,wtv,"
    "mp3,wav,flac,aac"
)
# Streams without a container around them: no player plays them, and nothing bounds a picture's data in them.
_BARE_STREAMS = "mpegvideo,m4v,h261,h263,h264,hevc,vvc,obu,av1,mjpeg,yuv4mpegpipe"
READABLE = "MP4, MOV, WebM, Matroska, AVI, MPEG, FLV, ASF, OGG or GIF"

# A title in another encoding than UTF-8 is no reason to refuse a film. From PyAV 19 on, none is.
_METADATA = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True)
class VideoLimits:
    """Limits of a video. They are checked before decoding where a header tells, and again while decoding.

    Attributes:
        max_bytes: Most bytes of the file, the download, or all images of a folder together.
        max_frames: Most frames that are kept (every ``stride``-th counts).
        max_pixels: Most pixels of one frame.
        max_duration: Longest time in seconds from the first to the last frame.
        max_memory: Most bytes of decoded frames; three for each pixel of each kept frame.
        download_timeout: Seconds that one wait for the network may take.
        download_deadline: Seconds that a whole download may take.
        max_redirects: Most redirects that a download follows.
        bare_streams: Whether streams without a container (``.h264``, ``.m2v``) are read.
        advice: What to do about a video that is too long, for messages; ``{stride}`` stands for a stride that may do.
    """

    max_bytes: int = 2 * 2**30
    max_frames: int = 10_000
    max_pixels: int = 4096 * 2304
    max_duration: float = 3600.0
    max_memory: int = 4 * 2**30
    download_timeout: float = 20.0
    download_deadline: float = 900.0
    max_redirects: int = 5
    bare_streams: bool = True
    advice: str = "Keep fewer with a larger stride (--stride {stride} or more) or use a shorter clip."


DEFAULT_LIMITS = VideoLimits()


@dataclass(frozen=True, eq=False)
class DecodedVideo:
    """The kept frames of one file.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, upright, of square pixels, T >= 1.
        pts: (T,) float64 seconds from the start of the file, strictly increasing.
        fps: Frames a second of the kept frames.
        digest: SHA-256 of content and options.
    """

    frames: NDArray[np.uint8] = field(repr=False)
    pts: NDArray[np.float64] = field(repr=False)
    fps: float
    digest: str


@dataclass(frozen=True)
class FileKind:
    """Container and codec of a video file, as far as they are known without decoding.

    Attributes:
        container: FFmpeg's names of the container, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: FFmpeg's name of the codec, such as ``h264``.
        pixel_format: Such as ``yuv420p``; empty where it is not known.
        packets: Packets of the video stream: about as many as frames. For advice only; frames are counted by
            decoding.
        width: In pixels, as the header says, before any rotation.
        height: Likewise.
    """

    container: str
    codec: str
    pixel_format: str
    packets: int
    width: int
    height: int


def file_kind(path: Path) -> FileKind:
    """Look at a video file without decoding it.

    Raises:
        VideoError: Not a video.
        OSError: The file cannot be read.
    """
    with open_video(path, str(path)) as container:
        stream = video_stream(container, str(path))
        kind = FileKind(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=stream.codec_context.pix_fmt or "",
            packets=0,
            width=stream.width,
            height=stream.height,
        )
        packets = container.demux(stream)
        count = 0
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                break  # the file is cut off here
            if packet is None:
                break
            count += bool(packet.size)
    return replace(kind, packets=count)


def decode_file(
    path: Path,
    *,
    name: str,
    limits: VideoLimits,
    stride: int,
    tick: Callable[[float], None],
    store: FrameStore | None = None,
) -> DecodedVideo:
    """Decode every ``stride``-th frame of a video file.

    Args:
        path: The file.
        name: Its name in messages.
        limits: Its limits.
        stride: At least 1.
        tick: Called with the fraction in [0, 1] of the file that is done; may raise to stop.
        store: Where the frames go; see :class:`FrameBuffer`.

    Raises:
        VideoError: Not a video, no frame that can be decoded, or beyond a limit.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise VideoError(f"{name} is empty (0 bytes); expected a video.")
    if size > limits.max_bytes:
        raise VideoError(too_many_bytes(name, limits))
    stream = FrameStream(path, name=name, limits=limits, stride=stride)
    frames = FrameBuffer(name, limits, stride, expected=_expected_frames(path, name, limits), store=store)
    for index, picture in enumerate(stream):
        frames.append(picture)
        if index % 8 == 0:
            tick(min(1.0, stream.position / size))
    digest = stream.digest
    tick(1.0)
    pts = stream.pts
    return DecodedVideo(frames.finish(), pts, stream.fps, digest)


def _expected_frames(path: Path, name: str, limits: VideoLimits) -> int:
    """What the header says; it may lie."""
    with open_video(path, name, bare_streams=limits.bare_streams) as container:
        return int(video_stream(container, name).frames)


def file_digest(path: Path, stride: int, *treatment: str) -> str:
    """Digest of a file's content, of the stride, and of what makes its pictures differ from what is stored."""
    digest = content_digest("file", f"stride={stride}", *treatment)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _time_within(
    frame: Any, time_base: Fraction, start: Fraction, name: str, limits: VideoLimits
) -> Fraction | None:
    """The time of a frame; ``VideoError`` where it is beyond the limit of duration."""
    time = _time(frame, time_base, start)
    if time is not None and time > limits.max_duration:
        raise VideoError(
            f"{name} is longer than the limit of {limits.max_duration:g} s. Cut it into shorter clips."
        )
    return time


class FrameStream:
    """Decodes a video file frame by frame, one picture in memory at a time: (H, W, 3) uint8 RGB, upright.

    Args:
        path: The file.
        name: Its name in messages.
        limits: Its limits; as nothing is kept, ``max_frames`` and ``max_memory`` do not count.
        stride: Every ``stride``-th frame is given, beginning with the first.
        square: Whether pixels are made square; see :class:`~steerseg.video.frame_pictures.FramePictures`.

    Attributes:
        position: Bytes of the file that were read.
    """

    def __init__(
        self, path: Path, *, name: str, limits: VideoLimits, stride: int = 1, square: bool = True
    ) -> None:
        self._path, self._name, self._limits, self._stride = path, name, limits, stride
        self._square = square
        self._pictures: FramePictures | None = None
        self._times: list[Fraction | None] = []
        self._rate = DEFAULT_FPS
        self.position = 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The pictures in display order; iterated once.

        Raises:
            VideoError: Not a video, no frame that can be decoded, or beyond a limit.
        """
        decoded = damaged = 0
        with open_video(self._path, self._name, bare_streams=self._limits.bare_streams) as container:
            stream = _bounded_stream(container, self._name, self._limits)
            self._rate = declared_rate(stream)
            start = start_time(container)
            pictures = self._pictures = _pictures(stream, self._name, self._limits, square=self._square)
            for item in _decode(container, stream):
                if isinstance(item, av.FFmpegError):
                    if isinstance(item, SHORTAGES):
                        raise item
                    damaged += 1
                    continue
                self.position, frame = item
                pictures.begin(frame)
                if decoded % self._stride == 0:
                    time = _time_within(frame, stream.time_base, start, self._name, self._limits)
                    self._times.append(time)
                    yield pictures.picture(frame)
                decoded += 1
        if not decoded:
            raise VideoError(
                f"{self._name} holds no frame that can be decoded ({damaged} damaged packets). It may be truncated "
                "or empty; export or download it again."
            )
        if damaged:
            log.warning("%s: %d damaged packets skipped, %d frames decoded", self._name, damaged, decoded)

    @property
    def digest(self) -> str:
        """The digest that :func:`~steerseg.video.load_video` gives the file; known once a picture was given."""
        pictures = self._pictures
        treatment = pictures.treatment if pictures is not None and pictures.begun else ()
        return file_digest(self._path, self._stride, *treatment)

    @property
    def pts(self) -> NDArray[np.float64]:
        """(T,) seconds from the file's start of the pictures so far, strictly increasing."""
        return _increasing(self._times, self._stride / self._rate)

    @property
    def fps(self) -> float:
        """Pictures a second of those so far."""
        return frames_a_second(self.pts, fallback=self._rate / self._stride)


def _pictures(stream: Any, name: str, limits: VideoLimits, *, square: bool = True) -> FramePictures:
    """What makes pictures of a stream's frames."""
    return FramePictures(
        stream.sample_aspect_ratio,
        lambda width, height: check_size(name, width, height, limits),
        square=square,
    )


def _bounded_stream(container: Any, name: str, limits: VideoLimits) -> Any:
    """The video stream of a file, its size checked and its decoder bounded."""
    stream = video_stream(container, name)
    check_size(name, stream.width, stream.height, limits)
    # A stream may change its size midway; the decoder itself then refuses to allocate what no limit
    # allows. Its measure includes margins around the picture, hence the slack.
    stream.codec_context.options = {"max_pixels": str(4 * limits.max_pixels + 2**20)}
    return stream


def open_video(path: Path, name: str, *, bare_streams: bool = True) -> Any:
    """Open a video file as PyAV's container, without anything else that it may name.

    Args:
        path: The file.
        name: Its name in messages.
        bare_streams: See :class:`VideoLimits`.

    Raises:
        VideoError: Not a video.
    """
    try:
        # An absolute path cannot be taken for one of FFmpeg's protocols ("concat:...").
        return av.open(
            str(path.absolute()),
            options={
                "format_whitelist": f"{_CONTAINERS},{_BARE_STREAMS}" if bare_streams else _CONTAINERS,
                "protocol_whitelist": "file",
            },
            **_METADATA,
        )
    except av.FFmpegError as error:
        if isinstance(error, SHORTAGES):
            raise
        raise VideoError(
            f"{name} is not a video that can be read, or its index is cut off; expected {READABLE}. Convert "
            "it, for example to MP4 (H.264)."
        ) from error


def video_stream(container: Any, name: str) -> Any:
    """The video stream of a container.

    Raises:
        VideoError: There is none that can be decoded.
    """
    # The cover picture of a song is a "video stream" of one frame.
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise VideoError(f"{name} holds no video stream (audio only?); expected {READABLE} with pictures.")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(
            f"{name} uses a codec that cannot be decoded. Convert it, for example to MP4 (H.264)."
        )
    return stream


def check_size(name: str, width: int, height: int, limits: VideoLimits) -> None:
    """Raise ``VideoError`` where a frame has more pixels than the limit."""
    if width * height > limits.max_pixels:
        raise VideoError(
            f"{name} has frames of {width}x{height}, more than the limit of {limits.max_pixels} pixels. "
            "Scale it down first."
        )


def _decode(container: Any, stream: Any) -> Iterator[tuple[int, Any] | av.FFmpegError]:
    """Yield (end of the packet in the file, frame) in display order, and errors where frames are lost."""
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = min(_MOST_THREADS, usable_cores())
    packets = container.demux(stream)
    end = 0
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            # The container itself breaks off here: what the decoder still holds are the last frames.
            yield error
            packet = None
        try:
            for frame in stream.decode(packet):
                yield end, frame
        except av.EOFError:
            return  # flushed already
        except av.FFmpegError as error:
            yield error
        if packet is None:
            return
        if packet.pos is not None and packet.size:
            end = max(end, packet.pos + packet.size)


def start_time(container: Any) -> Fraction:
    """When the earliest sound or picture begins; players count from there."""
    starts = [
        stream.start_time * stream.time_base
        for stream in (*container.streams.video, *container.streams.audio)
        if stream.start_time is not None and stream.time_base is not None
    ]
    return Fraction(min(starts, default=0))


def _time(frame: Any, time_base: Fraction, start: Fraction) -> Fraction | None:
    ticks = frame.pts if frame.pts is not None else frame.dts
    return None if ticks is None else ticks * time_base - start


def declared_rate(stream: Any) -> float:
    """The rate that a stream says it has, where that is plausible, else the default."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0.1 <= rate <= 1000:
            return float(rate)
    return DEFAULT_FPS


def _increasing(times: Sequence[Fraction | None], interval: float) -> NDArray[np.float64]:
    """Strictly increasing seconds, one a frame, from time stamps that may be missing, shuffled or doubled.

    Decoders give frames in display order. Where the stamps disagree, the file carries stamps of another order
    (writers that forget B-frames), so the stamps are sorted, not the frames.
    """
    known = sorted(float(time) for time in times if time is not None)
    if len(known) < len(times) or 2 * len(set(known)) <= len(times) != 1:
        # Missing, or the same over and over: such stamps are useless.
        known = [i * interval for i in range(len(times))]
    pts = np.array(known, dtype=np.float64)
    # A doubled stamp goes a hair after the one before; a thousandth of a frame hurts no rounding.
    for i in np.flatnonzero(np.diff(pts) <= 0) + 1:
        pts[i:] = np.maximum(pts[i:], pts[i - 1] + interval * 1e-3)
    return pts


def frames_a_second(pts: NDArray[np.float64], fallback: float) -> float:
    """The rate of frames at increasing seconds: exact for a constant rate, the median where the rate varies."""
    if len(pts) < 2:
        return fallback
    mean = (pts[-1] - pts[0]) / (len(pts) - 1)
    grid = pts[0] + mean * np.arange(len(pts))
    # A constant rate in a coarse clock (33, 33, 34 ms) has a wrong median; the mean over the file is right.
    if np.abs(pts - grid).max() < mean / 2:
        return float(1.0 / mean)
    return float(1.0 / np.median(np.diff(pts)))


class FrameStore(Protocol):
    """Keeps decoded frames elsewhere than in this process's memory."""

    def append(self, image: NDArray[np.uint8]) -> None:
        """Keep one (H, W, 3) image; all have the same shape.

        Raises:
            ArtefactError: There is no room.
        """

    def finish(self) -> NDArray[np.uint8]:
        """(T, H, W, 3) of what was appended."""


class FrameBuffer:
    """Grows a (T, H, W, 3) array in place, so that the frames are in memory once and not twice.

    Beyond :data:`IN_MEMORY` they are in no memory at all, but in a file that is mapped into it.

    Args:
        name: Name of the video in messages.
        limits: Its limits.
        stride: As in messages.
        expected: Frames of the file, as far as its header says.
        store: Where the frames go, in place of memory and such a file.
    """

    def __init__(
        self,
        name: str,
        limits: VideoLimits,
        stride: int,
        expected: int = 0,
        store: FrameStore | None = None,
    ) -> None:
        self._name = name
        self._limits = limits
        self._stride = stride
        # Frames that are kept: a hint from the header, which may lie. It decides the first allocation and the advice.
        self._expected = math.ceil(max(0, expected) / stride)
        self._count = 0
        self._array: NDArray[np.uint8] | None = None
        self._file: FrameStore | None = store

    def append(self, image: NDArray[np.uint8]) -> None:
        """Copy one (H, W, 3) image to the end.

        Raises:
            VideoError: One more frame would be beyond the limit of frames or of memory.
        """
        most = min(self._limits.max_frames, self._limits.max_memory // image.nbytes)
        if self._count >= most:
            raise VideoError(self._too_many(image.nbytes))
        if self._file is None and (self._count + 1) * image.nbytes > IN_MEMORY:
            self._spill(image.shape)
        if self._file is not None:
            self._file.append(image)
            self._count += 1
            return
        if self._array is None:
            most = max(1, min(most, IN_MEMORY // image.nbytes))
            self._array = np.empty((min(most, max(16, min(self._expected, 4096))), *image.shape), np.uint8)
        elif self._count == len(self._array):
            grown = min(most, self._count + max(16, self._count // 4))
            self._array.resize((grown, *image.shape), refcheck=False)
        self._array[self._count] = image
        self._count += 1

    def _spill(self, shape: tuple[int, ...]) -> None:
        """Move what is there to a file, where the rest follows."""
        self._file = FrameFile(shape)
        if self._array is not None:
            for image in self._array[: self._count]:
                self._file.append(image)
            self._array = None

    def finish(self) -> NDArray[np.uint8]:
        """The frames so far, without spare room."""
        if self._file is not None:
            return self._file.finish()
        if self._array is None:
            raise ValueError("no frame was appended")
        self._array.resize((self._count, *self._array.shape[1:]), refcheck=False)
        return self._array

    def _too_many(self, frame_bytes: int) -> str:
        most = max(1, min(self._limits.max_frames, self._limits.max_memory // frame_bytes))
        stride = self._stride * max(2, math.ceil(self._expected / most))
        advice = self._limits.advice.replace("{stride}", str(stride))
        if self._count >= self._limits.max_frames:
            return f"{self._name} has more than the limit of {self._limits.max_frames} frames. {advice}"
        return (
            f"{self._name} needs more than the limit of {self._limits.max_memory / 2**20:.0f} MiB for its "
            f"frames ({frame_bytes / 2**20:.1f} MiB each). {advice}"
        )


def content_digest(*options: str) -> hashlib._Hash:
    """A SHA-256 of the kind of source and the options, to be updated with the content."""
    return hashlib.sha256("\0".join(("steerseg-video-1", *options, "")).encode())


def too_many_bytes(name: str, limits: VideoLimits) -> str:
    """The message for a source beyond ``max_bytes``."""
    return (
        f"{name} is larger than the limit of {limits.max_bytes / 2**20:.0f} MiB. Use a shorter or smaller "
        "clip, or raise the limit."
    )
