"""Costs of a process's first proposal, paid at its start: compiled kernels and captured steps."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np
import torch

from steerseg.pipeline import Progress, SteerSeg
from steerseg.tracking import Tracker
from steerseg.video import video_from_frames

log = logging.getLogger(__name__)

_HEIGHT, _WIDTH = 480, 854


_PARTS = {"image_encoder": None, "memory_attention": True, "memory_encoder": None, "sam_mask_decoder": None}
"""Parts of the SAM 2 package's model, and whether each is compiled for inputs of any size."""


def compile_tracker(tracker: Tracker, *, backend: str = "inductor") -> tuple[str, ...]:
    """Have ``torch.compile`` fuse the parts of SAM 2, each when it is first run. The masks stay the same.

    The driver around them, which keeps the memories, runs as before. The number of memories changes from frame to
    frame, so that their attention is compiled for any number. A segmenter with other parts, such as EdgeTAM, runs as
    it is. The log says what is compiled, or that nothing is.

    Args:
        tracker: Its model is changed in place.
        backend: Of ``torch.compile``.

    Returns:
        Names of the parts that are compiled: all of them or none.
    """
    model, version = tracker.segmenter.model, tracker.segmenter.version
    lacking = [name for name in _PARTS if not hasattr(model, name)]
    if lacking:
        log.warning(
            "nothing of the segmenter %s is compiled: compiling is made for SAM 2 in its own package, and this model "
            "has no %s; it runs as it is",
            version,
            ", ".join(lacking),
        )
        return ()
    for name, dynamic in _PARTS.items():
        part = getattr(model, name)
        part.forward = torch.compile(part.forward, backend=backend, dynamic=dynamic)
    log.info("torch.compile takes of the segmenter %s: %s", version, ", ".join(_PARTS))
    return tuple(_PARTS)


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
        compiled: Whether SAM 2 is compiled before, which takes minutes; see :func:`compile_tracker`. Its own passes are
            then what runs, in place of those with fewer passes over memory, which were faster on an H100.
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
