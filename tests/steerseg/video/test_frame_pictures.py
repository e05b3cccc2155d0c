"""Pictures look as browsers show them: square pixels, and the colours of files that do not name theirs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from steerseg.errors import VideoError
from steerseg.video import DEFAULT_LIMITS, VideoLimits, load_video
from steerseg.video.decoding import FrameStream
from steerseg.video.frame_pictures import square_size
from steerseg.video.loading import read_image

RED = (200, 30, 30)
_BT709, _BT601 = (0.2126, 0.0722, 1), (0.299, 0.114, 5)


def write(
    path: Path,
    width: int,
    height: int,
    *,
    matrix: tuple[float, float, int] = _BT709,
    tag: bool = False,
    aspect: Fraction | None = None,
) -> Path:
    """Three frames of one red, made of it by hand, whether the file names the matrix or not."""
    red_share, blue_share, number = matrix
    r, g, b = (value / 255 for value in RED)
    luma = red_share * r + (1 - red_share - blue_share) * g + blue_share * b
    values = (
        16 + 219 * luma,
        128 + 224 * (b - luma) / (2 * (1 - blue_share)),
        128 + 224 * (r - luma) / (2 * (1 - red_share)),
    )
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if tag:
            stream.codec_context.colorspace = number
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(3):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane, value in zip(frame.planes, values, strict=True):
                plane.update(bytes([round(value)]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("size", "matrix", "tag"),
    [
        ((1280, 720), _BT709, False),
        ((1280, 720), _BT709, True),
        ((1280, 720), _BT601, True),
        ((1280, 704), _BT601, False),
        ((320, 240), _BT601, False),
        ((320, 240), _BT709, True),
    ],
)
def test_colours_are_those_that_browsers_show(
    tmp_path: Path, size: tuple[int, int], matrix: tuple[float, float, int], tag: bool
) -> None:
    path = write(tmp_path / "clip.mp4", *size, matrix=matrix, tag=tag)
    for picture in (
        load_video(path).frames[0],
        next(iter(FrameStream(path, name="clip", limits=DEFAULT_LIMITS))),
    ):
        assert picture[8, 8].astype(int) == pytest.approx(RED, abs=3)


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(2), (320, 120)),
        (Fraction(1, 2), (160, 240)),
        (Fraction(16, 15), (171, 120)),
        (None, (160, 120)),
    ],
)
def test_pixels_are_square(tmp_path: Path, aspect: Fraction | None, size: tuple[int, int]) -> None:
    path = write(tmp_path / "clip.mp4", 160, 120, aspect=aspect)
    video = load_video(path)
    assert (video.width, video.height) == size
    streamed = next(iter(FrameStream(path, name="clip", limits=DEFAULT_LIMITS)))
    assert streamed.shape[:2] == size[::-1]
    stored = next(iter(FrameStream(path, name="clip", limits=DEFAULT_LIMITS, square=False)))
    assert stored.shape[:2] == (120, 160)


def test_what_is_read_otherwise_has_another_digest(tmp_path: Path) -> None:
    """Results that are kept for a video's pixels must not be taken for those of others."""
    plain = load_video(write(tmp_path / "a.mp4", 160, 120, matrix=_BT601))
    assert plain.digest == load_video(write(tmp_path / "b.mp4", 160, 120, matrix=_BT601)).digest
    squared = write(tmp_path / "c.mp4", 160, 120, aspect=Fraction(2))
    assert load_video(squared).digest != plain.digest


def test_square_pixels_keep_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 160, 120, aspect=Fraction(4))
    with pytest.raises(VideoError, match="640x120"):
        load_video(path, limits=VideoLimits(max_pixels=160 * 120))


@pytest.mark.parametrize("aspect", [None, Fraction(0), Fraction(1), Fraction(999, 1000)])
def test_square_pixels_stay_as_they_are(aspect: Fraction | None) -> None:
    assert square_size(1920, 1080, aspect) == (1920, 1080)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_pictures_of_16_bits_keep_their_upper_eight(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
    picture = read_image(tmp_path / f"grey.{suffix}", DEFAULT_LIMITS)
    assert (picture == (values >> 8)[..., None]).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pictures_of_32_bits_are_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.ones((4, 4), dtype=kind)).save(tmp_path / "deep.tif")
    with pytest.raises(VideoError, match="8 or 16 bits"):
        read_image(tmp_path / "deep.tif", DEFAULT_LIMITS)
