"""Videos whose pixels tell the number of each frame, in many kinds of file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 128, 64
BITS = 7
"""Bars from left to right, the lowest bit first: white for 1, black for 0."""

_CLOCK = 90_000


def picture(number: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: a frame that tells its number."""
    bars = np.array([(number >> bit) & 1 for bit in range(BITS)], dtype=np.uint8)
    columns = np.minimum(np.arange(WIDTH) * BITS // WIDTH, BITS - 1)
    return np.repeat(np.repeat((bars[columns] * 255)[None, :, None], HEIGHT, axis=0), 3, axis=2)


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that an (H, W, 3) uint8 picture of any size tells."""
    height, width = image.shape[:2]
    centres = [round((bit + 0.5) * width / BITS) for bit in range(BITS)]
    return sum(int(image[height // 2, x].mean() > 127) << bit for bit, x in enumerate(centres))


@dataclass(frozen=True)
class CountedVideo:
    """One kind of file.

    Attributes:
        name: File name; its ending chooses the container.
        codec: PyAV's name of the encoder.
        times: Seconds at which each frame begins.
        pixel_format: Of the encoded pictures.
        options: Of the encoder.
        container_options: Of the muxer.
        sound: Seconds from which to which there is sound, if there is any.
        rate: Frames a second that the task's data name; ``None`` where they name none.
    """

    name: str
    codec: str
    times: Sequence[Fraction]
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    sound: tuple[float, float] | None = None
    rate: float | None = None

    def write(self, folder: Path) -> Path:
        """Write the file."""
        path = folder / self.name
        with av.open(str(path), "w", options=self.container_options) as container:
            stream: Any = container.add_stream(self.codec, rate=30, options=self.options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, self.pixel_format
            stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK)
            stream.bit_rate = 2_000_000
            sound = None if self.sound is None else container.add_stream("aac", rate=48_000)
            if sound is not None and self.sound is not None:
                _write_sound(container, sound, self.sound)
            for number, seconds in enumerate(self.times):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = round(seconds * _CLOCK), Fraction(1, _CLOCK)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if self.codec == "libsvtav1":
            _give_up_real_time()
        return path


def _give_up_real_time() -> None:
    """Undo what SVT-AV1 does as root: it leaves its caller, and all that this starts, in real time; others starve."""
    if hasattr(os, "SCHED_FIFO"):
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def _write_sound(container: Any, stream: Any, span: tuple[float, float]) -> None:
    silence = np.zeros((1, 1024), dtype=np.float32)
    for index in range(round((span[1] - span[0]) * 48_000 / 1024)):
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        frame.pts, frame.time_base = round(span[0] * 48_000) + index * 1024, Fraction(1, 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def evenly(count: int, rate: Fraction | int, start: Fraction | int = 0) -> list[Fraction]:
    """``count`` times at a constant rate."""
    return [start + Fraction(number) / rate for number in range(count)]


def _jittered(count: int) -> list[Fraction]:
    """Times of a clip of nominally 12 a second that dwells and hurries."""
    gaps = [Fraction(1, 12), Fraction(3, 12), Fraction(1, 12), Fraction(5, 48), Fraction(1, 6)]
    times = [Fraction(0)]
    while len(times) < count:
        times.append(times[-1] + gaps[len(times) % len(gaps)])
    return times


_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
_NTSC = Fraction(30_000, 1001)
_NO_EDIT_LIST = {"use_editlist": "0"}

KINDS: tuple[CountedVideo, ...] = (
    CountedVideo("plain-12.mp4", "libx264", evenly(36, 12), rate=12),
    CountedVideo("no-rate-given-12.mp4", "libx264", evenly(36, 12)),
    CountedVideo("ntsc.mp4", "libx264", evenly(60, _NTSC), rate=float(_NTSC)),
    CountedVideo("ntsc-rounded-rate.mp4", "libx264", evenly(60, _NTSC), rate=30),
    CountedVideo("no-b-frames.mp4", "libx264", evenly(40, 25), options={"bf": "0"}, rate=25),
    CountedVideo("key-frames-only.mov", "libx264", evenly(40, 25), options={"g": "1"}, rate=25),
    CountedVideo("fragmented.mp4", "libx264", evenly(40, 25), container_options=_FRAGMENTED, rate=25),
    CountedVideo(
        "fragmented-late.mp4",
        "libx264",
        evenly(40, 12, Fraction(1, 6)),
        container_options=_FRAGMENTED,
        rate=12,
    ),
    CountedVideo(
        "fragmented-negative-offsets.mp4",
        "libx264",
        evenly(40, 25),
        container_options={"movflags": "frag_keyframe+empty_moov+negative_cts_offsets"},
        rate=25,
    ),
    CountedVideo("no-edit-list.mp4", "libx264", evenly(40, 25), container_options=_NO_EDIT_LIST, rate=25),
    CountedVideo("late.mp4", "libx264", evenly(48, 12, 2), rate=12),
    CountedVideo("variable.mp4", "libx264", _jittered(30), rate=12),
    CountedVideo("variable-no-rate.mp4", "libx264", _jittered(30)),
    CountedVideo("sixty-no-rate.mp4", "libx264", evenly(90, 60)),
    CountedVideo("sound-first.mp4", "libx264", evenly(36, 12, Fraction(1, 4)), sound=(0.0, 3.5), rate=12),
    CountedVideo("sound-longer.mp4", "libx264", evenly(36, 12), sound=(0.0, 5.0), rate=12),
    CountedVideo("vp8.webm", "libvpx", evenly(45, 30), rate=30),
    CountedVideo("vp9.webm", "libvpx-vp9", evenly(40, 25), rate=25),
    CountedVideo("vp9-late.webm", "libvpx-vp9", evenly(40, 25, 1), rate=25),
    CountedVideo("vp9-variable.webm", "libvpx-vp9", _jittered(30)),
    CountedVideo("av1.mp4", "libsvtav1", evenly(40, 25), rate=25),
    CountedVideo("matroska.mkv", "libx264", evenly(40, 25), rate=25),
    CountedVideo("yuv444.mp4", "libx264", evenly(40, 25), pixel_format="yuv444p", rate=25),
)
