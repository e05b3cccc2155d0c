"""A handler that a worker process of the completion tests really runs; the name of the media says what it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ml_backend.models.geometry import upright_box
from ml_backend.models.messages import (
    MaskAnswer,
    MaskRequest,
    ModelAnswer,
    ModelRequest,
    PropagatedFrame,
    Yielded,
)
from ml_backend.models.reporter import Reporter
from steerseg.errors import ModelError, VideoError
from steerseg.masks import encode_rle

FRAMES = 12
HEIGHT, WIDTH = 36, 64


def mask(request: ModelRequest, reporter: Reporter) -> ModelAnswer:
    """Fill boxes, and propagate one small square with less confidence the later the frame."""
    assert isinstance(request, MaskRequest)
    reporter.progress("boxes", 0.5)
    word = request.media.name
    if word == "unreadable":
        raise VideoError("the video holds no frame that can be decoded; export it again")
    if word == "broken":
        raise ModelError("out of memory while working on the request")
    while word == "endless":
        reporter.progress("propagating", 0.3)
        time.sleep(0.01)
    if word == "busy":
        flag = Path(request.media.parent, "was-put-down")
        if not flag.exists():
            flag.touch()
            return Yielded()
    upright = {
        i: tuple(upright_box(box, HEIGHT, WIDTH) for box in boxes) for i, boxes in request.boxes.items()
    }
    boxed = {}
    for index, boxes in upright.items():
        pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for x, y, width, height in boxes if word != "blind" else ():
            rows = slice(round(y * HEIGHT), round((y + height) * HEIGHT))
            pixels[rows, round(x * WIDTH) : round((x + width) * WIDTH)] = True
        if pixels.any():
            boxed[index] = encode_rle(pixels)
    small = np.zeros((HEIGHT, WIDTH), dtype=bool)
    small[:3, :3] = True
    decided = {*request.masks, *request.boxes, *request.hidden}
    propagated = {
        index: PropagatedFrame(encode_rle(small), 1 - index / FRAMES)
        for index in range(FRAMES)
        if request.propagate and index not in decided
    }
    return MaskAnswer(FRAMES, HEIGHT, WIDTH, boxed, upright, propagated)


def masking() -> Callable[[ModelRequest, Reporter], ModelAnswer]:
    return mask
