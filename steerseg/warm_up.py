"""Costs of a process's first proposal, paid at its start: compiled kernels and captured steps."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from steerseg.pipeline import Progress, SteerSeg
from steerseg.tracking import Tracker
from steerseg.video import video_from_frames

_HEIGHT, _WIDTH = 480, 854


def compile_tracker(tracker: Tracker, *, backend: str = "inductor") -> None:
    """Have ``torch.compile`` fuse the parts of SAM 2, each when it is first run. The masks stay the same.

    The driver around them, which keeps the memories, runs as before. The number of memories changes from frame to
    frame, so that their attention is compiled for any number.

    Args:
        tracker: Its model is changed in place.
        backend: Of ``torch.compile``.
    """
    model = tracker.segmenter.model
    model.image_encoder.forward = torch.compile(model.image_encoder.forward, backend=backend)
    model.memory_attention.forward = torch.compile(
        model.memory_attention.forward, backend=backend, dynamic=True
    )
    model.memory_encoder.forward = torch.compile(model.memory_encoder.forward, backend=backend)
    model.sam_mask_decoder.forward = torch.compile(model.sam_mask_decoder.forward, backend=backend)


def warm_up(
    steerseg: SteerSeg,
    *,
    compiled: bool = False,
    height: int = _HEIGHT,
    width: int = _WIDTH,
    progress: Progress | None = None,
) -> float:
    """Make a proposal for a made-up video and forget it.

    Args:
        steerseg: The loaded models.
        compiled: Whether SAM 2 is compiled before, which takes minutes. Its own passes are then what runs, in place of
            those with fewer passes over memory, which were faster on an H100.
        height: Of the made-up video; answers of videos in another format are captured when they come.
        width: Of the made-up video.
        progress: Called with the proposal's stages.

    Returns:
        Seconds.
    """
    start = time.perf_counter()
    if compiled:
        compile_tracker(steerseg.tracker)
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = np.stack([np.roll(still, 3 * index, axis=1) for index in range(steerseg.config.keyframes + 2)])
    config = replace(steerseg.config, alternatives=1)
    steerseg.propose(video_from_frames(pixels, fps=24), "anything", config=config, progress=progress)
    steerseg.tracker.warm()
    steerseg.forget()
    return time.perf_counter() - start
