"""What the worker process of these tests answers with: boxes that move, whose place follows from the request."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from ml_backend.models.geometry import upright_box
from ml_backend.models.messages import (
    MaskAnswer,
    MaskRequest,
    ModelAnswer,
    ModelRequest,
    PropagatedFrame,
    ProposeRequest,
    SteerAnswer,
    SteerRequest,
)
from ml_backend.models.process import Handler
from ml_backend.models.reporter import Reporter
from ml_backend.proposals import StoredMaps, StoredPoint, StoredProposal, StoredTracklet
from steerseg.errors import SteerSegError, VideoError
from steerseg.masks import RLE, encode_rle

HEIGHT, WIDTH = 360, 640
PAGES, FRAMES = 12, 50  # of a folder of pages, and of a video


def answering() -> Handler[ModelRequest, ModelAnswer]:
    """The handler of a worker process."""
    return _answer


def _answer(request: ModelRequest, reporter: Reporter) -> ModelAnswer:
    match request:
        case ProposeRequest():
            return _propose(request, reporter)
        case SteerRequest():
            return _steer(request, reporter)
        case MaskRequest():
            return _mask(request, reporter)
    raise SteerSegError(f"nothing is known of {type(request).__name__}")


def _propose(request: ProposeRequest, reporter: Reporter) -> StoredProposal:
    """Boxes that move to the right, the first one gone from the tenth frame on; or what the first word orders."""
    reporter.progress("grounding", 0.5)
    word, _, rest = request.expression.partition(" ")
    if word == "unreadable":
        raise VideoError("the video holds no frame that can be decoded; export it again")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    while word == "wait" and not Path(rest).exists():
        reporter.progress("tracking", 0.4)
        time.sleep(0.01)
    reporter.progress("tracking", 1.0)
    total = _frames_of(request.media)
    count = 0 if word == "nothing" else min(3, request.alternatives)
    return StoredProposal(
        expression=request.expression,
        attributes=("red", "moving right"),
        tracklets=tuple(
            StoredTracklet(
                rles=tuple(
                    _box(10 * frame, 40 + 100 * rank, hidden=rank == 0 and frame >= 10)
                    for frame in range(total)
                ),
                frame_scores=np.linspace(0.9, 0.6, total, dtype=np.float32),
                prompt=StoredPoint(frame=2 * rank, x=0.2, y=0.25 + 0.25 * rank, value=1.0 - 0.25 * rank),
                score=(-0.1 if word == "unlike" else 0.8) - 0.3 * rank,
            )
            for rank in range(count)
        ),
        maps=StoredMaps(
            keyframes=(0, total - 1),
            frame=[[[0.0, 0.25], [0.5, 1.0]]] * 2,
            video=None,
            fused=[[[0.0, 0.5], [0.5, 1.0]]] * 2,
        ),
        points=(StoredPoint(0, 0.2, 0.25, 1.0), StoredPoint(total - 1, 0.7, 0.5, 0.5)),
        pts=np.arange(total) / 25,
        fps=25.0,
        height=HEIGHT,
        width=WIDTH,
        versions={"preset": "contract"},
    )


def _steer(request: SteerRequest, reporter: Reporter) -> SteerAnswer:
    """A box whose row tells how many clicks and boxes there were; painted frames as they were given."""
    reporter.progress("tracking", 0.5)
    on = sum(label for prompt in request.prompts.values() for label in prompt.labels)
    off = sum(not label for prompt in request.prompts.values() for label in prompt.labels)
    boxes = sum(prompt.box is not None for prompt in request.prompts.values())
    if not (on or boxes or request.track or request.painted):
        raise SteerSegError("type what to track, or click on it")
    total = _frames_of(request.media)
    return SteerAnswer(
        tracklet=StoredTracklet(
            rles=tuple(
                request.painted.get(frame)
                or _box(10 * frame, 20 * on + 7 * off + 60 * boxes, hidden=frame in request.hidden)
                for frame in range(total)
            ),
            frame_scores=np.full(total, 0.7, dtype=np.float32),
            prompt=StoredPoint(frame=0, x=0.2, y=0.25, value=1.0),
            score=0.9,
        ),
        kept_track=bool(request.track),
    )


def _mask(request: MaskRequest, reporter: Reporter) -> MaskAnswer:
    """Filled boxes, and on the other frames a small square, the less certain the later."""
    reporter.progress("boxes", 0.5)
    total = _frames_of(request.media)
    upright = {
        frame: tuple(upright_box(box, HEIGHT, WIDTH) for box in boxes)
        for frame, boxes in request.boxes.items()
    }
    boxed: dict[int, RLE] = {}
    for frame, boxes in upright.items():
        pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for x, y, width, height in boxes:
            rows = slice(round(y * HEIGHT), round((y + height) * HEIGHT))
            pixels[rows, round(x * WIDTH) : round((x + width) * WIDTH)] = True
        boxed[frame] = encode_rle(pixels)
    decided = {*request.masks, *request.boxes, *request.hidden}
    propagated = {
        frame: PropagatedFrame(_box(0, 0), 1 - frame / total)
        for frame in range(total)
        if request.propagate and frame not in decided
    }
    reporter.progress("propagating", 1.0)
    return MaskAnswer(total, HEIGHT, WIDTH, boxed, upright, propagated)


def _frames_of(media: Path) -> int:
    return PAGES if media.is_dir() else FRAMES


def _box(x: int, y: int, *, hidden: bool = False) -> RLE:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if not hidden:
        mask[y : y + 60, x : x + 80] = True
    return encode_rle(mask)
