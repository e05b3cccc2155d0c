"""Peak memory by frame count, of one run through a long video.

    python -m benchmarks.long_video                # 5 000 frames
    python -m benchmarks.long_video --frames 1500

A video of that length is written, decoded and tracked in both directions of time from its middle by a SAM 2 of random
weights in a small size: what is measured is what is kept, which does not depend on what the weights know. Room for
features is that of 128 frames, which is what the usual 2 GiB hold of SAM 2 in its usual size. Memory is
what the process holds for itself (``RssAnon``) and what of mapped files is resident beside it (``RssFile``), in MiB,
read from ``/proc``; the last column is its growth for each further 1 000 frames since one minute of video.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MINUTE = 1500  # frames at 25 a second
_SIZE = (360, 640)
_FEATURES_OF_A_FRAME = 4 * (32 * 32 * 4 + 16 * 16 * 8 + 8 * 8 * 32)  # bytes, of the small SAM 2 below


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_video", description=__doc__)
    parser.add_argument("--frames", type=int, default=5000, help="length of the video (default: 5000)")
    parser.add_argument("--objects", type=int, default=3, help="objects that are tracked (default: 3)")
    arguments = parser.parse_args()

    import torch

    from steerseg.demo.sam2 import build_sam2, save_sam2
    from steerseg.segmenters.sam2 import Sam2
    from steerseg.tracking import Prompt, Tracker
    from steerseg.video import VideoLimits, load_video, write_video
    from tests.support.tiny_sam2 import SMALL_SAM2

    torch.manual_seed(0)
    size = replace(SMALL_SAM2, image_size=128, memory_frames=7, object_pointers=16)
    with tempfile.TemporaryDirectory() as folder:
        save_sam2(build_sam2(size).state_dict(), size, Path(folder) / "sam2")
        path = Path(folder) / "long.mp4"
        write_video(path, _pictures(arguments.frames), 25.0)
        samples: list[tuple[str, int, float, float]] = []
        _sample(samples, "before", 0)
        video = load_video(path, limits=VideoLimits(max_memory=16 * 2**30))
        _sample(samples, "decoded", len(video))
        sam2 = Sam2.from_pretrained(Path(folder) / "sam2")
        tracker = Tracker(sam2, feature_bytes=128 * _FEATURES_OF_A_FRAME)
        encoded = tracker.open(video)
        middle = len(video) // 2
        candidates = [
            tracker.start(encoded, [Prompt(middle, points=((0.2 + 0.2 * i, 0.5),), labels=(True,))])
            for i in range(arguments.objects)
        ]
        told = 0

        def tick(fraction: float) -> None:
            nonlocal told
            # Both directions advance together: the frames that are done are twice the steps.
            done = int(fraction * len(video))
            if done - told >= 500:
                told = done
                _sample(samples, "tracked", done)

        tracklets = tracker.track(encoded, candidates, progress=tick)
        _sample(samples, "tracked", len(video))
        assert all(len(tracklet.rles) == len(video) for tracklet in tracklets)
    _print(samples, decoded=int(video.frames.nbytes))


def _pictures(count: int) -> Iterator[NDArray[np.uint8]]:
    """A bright square that crosses a gradient again and again."""
    height, width = _SIZE
    ramp = np.linspace(20, 120, width, dtype=np.uint8)
    background = np.broadcast_to(ramp[None, :, None], (height, width, 3))
    for t in range(count):
        picture = background.copy()
        left = (3 * t) % (width - 80)
        picture[140:220, left : left + 80] = (220, 120, 40)
        yield picture


def _sample(samples: list[tuple[str, int, float, float]], stage: str, frames: int) -> None:
    samples.append((stage, frames, _resident("RssAnon"), _resident("RssFile")))


def _resident(kind: str) -> float:
    """MiB of one kind of memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) / 1024
    raise SystemExit("this benchmark reads /proc/self/status, which this system does not have")


def _print(samples: list[tuple[str, int, float, float]], decoded: int) -> None:
    print(f"{'stage':10} {'frames':>7} {'own MiB':>9} {'mapped MiB':>11} {'peak':>8}")
    peak = 0.0
    peaks: list[tuple[int, float]] = []
    for stage, frames, own, mapped in samples:
        peak = max(peak, own + mapped)
        if stage == "tracked":
            peaks.append((frames, peak))
        print(f"{stage:10} {frames:7} {own:9.0f} {mapped:11.0f} {peak:8.0f}")
    print(f"\nthe decoded frames alone are {decoded / 2**20:.0f} MiB")
    late = [(frames, value) for frames, value in peaks if frames >= MINUTE]
    if len(late) > 1:
        (first, low), (last, high) = late[0], late[-1]
        print(
            f"peak at {last} frames over the peak at {first}: {high / low:.3f}; "
            f"{(high - low) / (last - first) * 1000:+.1f} MiB for each further 1000 frames"
        )


if __name__ == "__main__":
    main()
