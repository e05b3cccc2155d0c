"""Videos as arrays: decoding by PyAV with time stamps, keyframes, frame index <-> time, writing H.264.

A frame is identified by its index in decode order (0-based) and its presentation time. Containers lie about frame
counts and rates, so both come from decoding, never from a header.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from steerseg.errors import VideoError
from steerseg.video.decoding import (
    DEFAULT_FPS,
    DEFAULT_LIMITS,
    FrameBuffer,
    FrameStore,
    VideoLimits,
    check_size,
    content_digest,
    decode_file,
    too_many_bytes,
)
from steerseg.video.download import download, redact_url

Progress = Callable[[str, float], None]
"""Called with the name of the stage ("download", "decode") and the fraction in [0, 1] of it that is done."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # others run programs, or name further files

_QUARTER_TURNS = (5, 6, 7, 8)  # values of EXIF's orientation that exchange width and height

MAX_PICTURE_BYTES = 64 * 2**20
"""Largest file of one picture. A picture of the most pixels takes 28 MiB uncompressed; more is something else."""

_CLOCK = 90_000  # ticks a second of written videos; divides every customary frame rate


@dataclass(frozen=True, eq=False)
class Video:
    """Decoded frames with their times.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, upright (rotation of the container applied), T >= 1.
        pts: (T,) float64 seconds from the start of the file as a player counts them, strictly increasing.
        fps: Frames a second of the kept frames: exact for a constant rate, the median where the rate varies.
        source: Origin of the video, without secrets; for messages and records.
        digest: SHA-256 of the content and of the options that chose the frames: the key of caches.
        stride: Frame ``i`` is frame ``i * stride`` of the file in decode order.
    """

    frames: NDArray[np.uint8] = field(repr=False)
    pts: NDArray[np.float64] = field(repr=False)
    fps: float
    source: str
    digest: str
    stride: int = 1

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.frames)

    @property
    def height(self) -> int:
        """H, in pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """W, in pixels."""
        return int(self.frames.shape[2])

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self.pts[-1] - self.pts[0] + 1.0 / self.fps)

    def index_at(self, seconds: float) -> int:
        """The frame that a player shows at a time: the last one that has begun, else the first."""
        return max(0, int(np.searchsorted(self.pts, seconds, side="right")) - 1)

    def seek_time(self, index: int) -> float:
        """A time in seconds that shows frame ``index`` in a player: the middle of the frame.

        Seeking to the frame's own time shows the frame before it whenever rounding falls short.
        """
        if not 0 <= index < len(self.pts):
            raise IndexError(f"frame {index} of a video of {len(self.pts)} frames")
        end = self.pts[index + 1] if index + 1 < len(self.pts) else self.pts[index] + 1.0 / self.fps
        return float((self.pts[index] + end) / 2)


def keyframe_indices(num_frames: int, count: int) -> tuple[int, ...]:
    """``count`` frames spread evenly, first and last included; all frames where there are no more.

    As in DecAF: ``linspace(0, T - 1, K)`` cut to integers, here without its rounding errors.
    """
    if num_frames < 1 or count < 1:
        raise ValueError(f"need at least one frame and one keyframe, got {num_frames} and {count}")
    if num_frames <= count:
        return tuple(range(num_frames))
    if count == 1:
        return (0,)
    return tuple(i * (num_frames - 1) // (count - 1) for i in range(count))


def load_video(
    source: str | Path,
    *,
    limits: VideoLimits = DEFAULT_LIMITS,
    stride: int = 1,
    fps: float | None = None,
    allow_private_addresses: bool = False,
    progress: Progress | None = None,
) -> Video:
    """Decode a video file, a folder of frames, or the content of an http(s) URL.

    Damaged frames are skipped, and a truncated file gives the frames before the break.
    Frames of a folder are ordered by name with numbers as numbers (``2.jpg`` before ``10.jpg``), and must all
    be readable and of one size.

    Args:
        source: Path of a file or folder, or URL.
        limits: Limits of the video.
        stride: Keep every ``stride``-th frame, beginning with the first.
        fps: Frame rate of a folder of frames before the stride; 25 when not given. Files have their own.
        allow_private_addresses: Let URLs lead to loopback and private addresses.
        progress: Called now and then; may raise to stop.

    Raises:
        VideoError: Nothing there, not a video, no frame that can be decoded, or beyond a limit.
        ArtefactError: The frames do not fit into memory, and the folder for temporary files is full.
        ValueError: ``stride`` or ``fps`` is not positive.

    Example:
        >>> from steerseg import load_video
        >>> video = load_video("clip.mp4", stride=2)
        >>> video.frames.shape == (len(video), video.height, video.width, 3)
        True
        >>> video.index_at(video.seek_time(3))
        3
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source) if isinstance(source, str) else None
    if scheme is not None:
        if scheme[1].lower() not in ("http", "https"):
            raise VideoError(f"{scheme[1]}:// is not supported; give an http(s) URL, a file or a folder.")
        return _load_url(str(source), limits, stride, allow_private_addresses, progress)
    if "\0" in str(source):
        raise VideoError("the path of the video holds a NUL byte; give the path of a file or folder.")
    return load_path(Path(source), limits=limits, stride=stride, fps=fps, progress=progress)


def load_path(
    path: Path,
    *,
    limits: VideoLimits,
    stride: int = 1,
    fps: float | None = None,
    progress: Progress | None = None,
    store: FrameStore | None = None,
) -> Video:
    """Decode a video file or a folder of frames; see :func:`load_video`.

    Args:
        path: The file or folder.
        limits: See there.
        stride: See there.
        fps: See there.
        progress: See there.
        store: Where the frames go, in place of this process's memory.

    Raises:
        VideoError: See there.
        ArtefactError: See there.
    """
    try:
        if path.is_dir():
            return _load_folder(path, limits, stride, fps or DEFAULT_FPS, progress, store)
        if not path.exists():
            raise VideoError(f"{path} does not exist; expected a video file, a folder of frames or a URL.")
        if not path.is_file():
            raise VideoError(f"{path} is neither a file nor a folder; expected a video or a folder.")
        return _load_file(path, str(path), limits, stride, progress, store)
    except BlockingIOError as error:
        raise VideoError(
            f"{path} was not decoded: its decoder may not start another thread. The machine, or a limit of its "
            "processes or memory, has no room for one."
        ) from error
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror or error}.") from error


def video_from_frames(frames: NDArray[np.uint8], fps: float, *, source: str = "frames") -> Video:
    """Wrap (T, H, W, 3) uint8 RGB frames of a constant rate.

    Raises:
        VideoError: The array is not of that shape and type, or holds no frame.
        ValueError: ``fps`` is not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise VideoError(
            f"frames must be a (T, H, W, 3) uint8 array with at least one frame, got {frames.shape} "
            f"{frames.dtype}."
        )
    digest = content_digest("frames", repr(frames.shape), repr(float(fps)))
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    pts = np.arange(len(frames), dtype=np.float64) / fps
    return Video(frames=frames, pts=pts, fps=float(fps), source=source, digest=digest.hexdigest())


# --- URL ---------------------------------------------------------------------------------------------------


def _load_url(
    url: str, limits: VideoLimits, stride: int, allow_private_addresses: bool, progress: Progress | None
) -> Video:
    shown = redact_url(url)
    with tempfile.TemporaryDirectory(prefix="steerseg-") as folder:
        path = Path(folder) / "download"
        content_type = download(
            url,
            path,
            max_bytes=limits.max_bytes,
            timeout=limits.download_timeout,
            deadline=limits.download_deadline,
            max_redirects=limits.max_redirects,
            allow_private_addresses=allow_private_addresses,
            progress=None if progress is None else lambda fraction: progress("download", fraction),
        )
        try:
            return _load_file(path, shown, limits, stride, progress)
        except VideoError as error:
            raise VideoError(f"{error} (The server calls it {content_type}.)") from error


def _load_file(
    path: Path,
    name: str,
    limits: VideoLimits,
    stride: int,
    progress: Progress | None,
    store: FrameStore | None = None,
) -> Video:
    decoded = decode_file(
        path,
        name=name,
        limits=limits,
        stride=stride,
        tick=lambda fraction: None if progress is None else progress("decode", fraction),
        store=store,
    )
    return Video(decoded.frames, decoded.pts, decoded.fps, name, decoded.digest, stride)


# --- Folders of frames -------------------------------------------------------------------------------------


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder by name, numbers as numbers; hidden files and other types are left out."""
    images = [
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."
    ]
    return sorted(images, key=_natural_key)


def _natural_key(path: Path) -> tuple[tuple[tuple[int, int, str], ...], str]:
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), path.name


def load_frames(
    files: Sequence[Path],
    *,
    fps: float,
    source: str,
    limits: VideoLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Video:
    """Read images as the frames of one video, in the given order.

    Args:
        files: The images, all of one size.
        fps: Their rate.
        source: Name of the video in messages and records.
        limits: Limits of the video.
        progress: Called now and then; may raise to stop.

    Raises:
        VideoError: No file, one that is missing or cannot be read, other sizes, or beyond a limit.
        ValueError: ``fps`` is not positive.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if not files:
        raise VideoError(f"{source} lists no frames; at least one is needed.")
    try:
        return _load_images(files, source, limits, 1, fps, progress)
    except OSError as error:
        raise VideoError(f"{error.filename or source} cannot be read: {error.strerror or error}.") from error


def _load_folder(
    folder: Path,
    limits: VideoLimits,
    stride: int,
    fps: float,
    progress: Progress | None,
    store: FrameStore | None,
) -> Video:
    files = frame_files(folder)
    if not files:
        raise VideoError(
            f"{folder} holds no frames; expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) whose names "
            "give their order."
        )
    return _load_images(files[::stride], str(folder), limits, stride, fps, progress, store)


def _load_images(
    files: Sequence[Path],
    source: str,
    limits: VideoLimits,
    stride: int,
    fps: float,
    progress: Progress | None,
    store: FrameStore | None = None,
) -> Video:
    digest = content_digest("folder", f"stride={stride}", f"fps={fps!r}")
    frames = FrameBuffer(source, limits, stride, expected=len(files) * stride, store=store)
    total = 0
    first: NDArray[np.uint8] | None = None
    for index, file in enumerate(files):
        total += file.stat().st_size
        if total > limits.max_bytes:
            raise VideoError(too_many_bytes(source, limits))
        digest.update(picture_digest(file))
        image = read_image(file, limits)
        if first is None:
            first = image
        elif image.shape != first.shape:
            raise VideoError(
                f"{file} is {image.shape[1]}x{image.shape[0]}, but {files[0].name} is "
                f"{first.shape[1]}x{first.shape[0]}; all frames of a video must have one size."
            )
        frames.append(image)
        if progress is not None and (index % 8 == 0 or index + 1 == len(files)):
            progress("decode", (index + 1) / len(files))
    return Video(
        frames=frames.finish(),
        pts=np.arange(len(files), dtype=np.float64) * (stride / fps),
        fps=fps / stride,
        source=source,
        digest=digest.hexdigest(),
        stride=stride,
    )


def picture_digest(file: Path) -> bytes:
    """SHA-256 of a picture's file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def picture_size(file: Path) -> tuple[int, int]:
    """(width, height) of a picture as browsers show it, without decoding it.

    Raises:
        VideoError: It is none, or its file is too large.
    """
    with _open_image(file) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
        return (image.height, image.width) if turned else image.size


def is_upright_jpeg(file: Path) -> bool:
    """Whether a picture is a JPEG that browsers show as it is stored, without decoding it.

    Raises:
        VideoError: See :func:`picture_size`.
    """
    with _open_image(file) as image:
        return image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1


@contextlib.contextmanager
def _open_image(file: Path) -> Iterator[Image.Image]:
    try:
        if file.stat().st_size > MAX_PICTURE_BYTES:
            raise VideoError(f"{file} is larger than {MAX_PICTURE_BYTES >> 20} MiB. Write it again, smaller.")
        with Image.open(file, formats=_FORMATS) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(
            f"{file} is not an image that can be read. Write it again or remove it from the folder."
        ) from error


def read_image(file: Path, limits: VideoLimits) -> NDArray[np.uint8]:
    """One picture as (H, W, 3) uint8 RGB, upright as browsers show it.

    Of a grey picture of 16 bits the upper eight are taken, as browsers do.

    Raises:
        VideoError: It is none, or beyond the limits of bytes and of pixels, or it holds numbers of 32 bits.
    """
    with _open_image(file) as image:
        check_size(str(file), image.width, image.height, limits)
        upright = ImageOps.exif_transpose(image)  # as browsers show it
        if upright.mode in ("I", "F"):
            raise VideoError(
                f"{file} holds numbers of 32 bits, and nothing says which of them is white. Write it with 8 or 16 bits "
                "a channel."
            )
        if upright.mode.startswith("I;16"):  # which Pillow clips at 255
            grey = (np.asarray(upright) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(upright.convert("RGB"))


# --- Writing -----------------------------------------------------------------------------------------------


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    *,
    pts: Sequence[float] | NDArray[np.float64] | None = None,
    crf: int = 20,
) -> None:
    """Write H.264 (yuv420p, MP4 with its index in front) that plays in every browser.

    Odd sizes are padded by one repeated row or column, since the format needs even ones.

    Args:
        path: The file to write.
        frames: (H, W, 3) uint8 RGB images of one size; an iterator is consumed one frame at a time.
        fps: Frames a second.
        pts: Increasing seconds of the frames, for a variable rate; evenly by ``fps`` when not given.
        crf: x264's quality, 0 (lossless) to 51; lower is better and larger.

    Raises:
        VideoError: No frame, frames of different sizes, or the file cannot be written.
    """
    path = Path(path)
    rate = Fraction(fps).limit_denominator(1001)
    size: tuple[int, ...] | None = None
    ticks = -1
    try:
        with av.open(
            str(path.absolute()), "w", format="mp4", options={"movflags": "+faststart"}
        ) as container:
            stream: Any = container.add_stream(
                "libx264", rate=rate, options={"crf": str(crf), "preset": "fast"}
            )
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK)
            # Named, since players otherwise guess the colours from the size.
            stream.codec_context.colorspace = stream.codec_context.color_primaries = 1  # BT.709
            stream.codec_context.color_trc = 1
            stream.codec_context.color_range = 1  # limited
            for index, image in enumerate(frames):
                if size is None:
                    size = image.shape
                    stream.height, stream.width = (n + n % 2 for n in image.shape[:2])
                elif image.shape != size:
                    raise VideoError(f"frame {index} has shape {image.shape}, the first has {size}.")
                seconds = index / fps if pts is None else float(pts[index]) - float(pts[0])
                ticks = max(ticks + 1, round(seconds * _CLOCK))
                frame = av.VideoFrame.from_ndarray(_pad_even(image), format="rgb24").reformat(
                    format="yuv420p", dst_colorspace="ITU709"
                )
                frame.pts, frame.time_base = ticks, Fraction(1, _CLOCK)
                container.mux(stream.encode(frame))
            if size is None:
                raise VideoError(f"{path} cannot be written: there is no frame.")
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path} cannot be written: {error.strerror or error}.") from error


def _pad_even(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(image)
