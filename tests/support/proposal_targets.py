"""A handler that a worker process of the service tests really runs; the expression says what it does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ml_backend.models.messages import ProposeRequest, SteerAnswer, SteerRequest
from ml_backend.models.reporter import Reporter
from ml_backend.proposals import StoredMaps, StoredPoint, StoredProposal, StoredTracklet
from steerseg.errors import VideoError
from steerseg.masks import encode_rle
from tests.support.steering_targets import steer

FRAMES = 12
HEIGHT, WIDTH = 36, 64


def propose(request: ProposeRequest, reporter: Reporter) -> StoredProposal:
    """Two boxes that move to the right, the first gone from frame 10 on; or what the first word orders."""
    reporter.progress("grounding", 0.5)
    word, _, rest = request.expression.partition(" ")
    if word == "unreadable":
        raise VideoError("the video holds no frame that can be decoded; export it again")
    if word == "dropped":
        if not Path(rest).exists():
            Path(rest).touch()
            request.media.unlink()
        if not request.media.exists():
            raise VideoError("the video does not exist")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "wait":
        Path(rest + ".started").touch()
        while not Path(rest).exists():
            reporter.progress("tracking", 0.4)
            time.sleep(0.01)
    reporter.progress("tracking", 1.0)
    count = 0 if word == "nothing" else min(2, request.alternatives)
    return StoredProposal(
        expression=request.expression,
        attributes=("red", "moving right"),
        tracklets=tuple(
            _tracklet(rank, -0.1 if word == "unlike" else 0.8 - 0.3 * rank) for rank in range(count)
        ),
        maps=StoredMaps(keyframes=(0, FRAMES - 1), frame=None, video=None, fused=[[[0.0, 1.0]]] * 2),
        points=(StoredPoint(frame=0, x=0.2, y=0.3, value=1.0),),
        pts=np.arange(FRAMES) / 25,
        fps=25.0,
        height=HEIGHT,
        width=WIDTH,
        versions={"preset": "test"},
        presence={"absent": 0.07, "judged": 0.93}.get(word),
        refused=word == "absent",
        found="penguin" if word == "absent" else "",
        confidence=0.42 if word == "doubtful" else None,
    )


def _tracklet(rank: int, score: float) -> StoredTracklet:
    rles = []
    for frame in range(FRAMES):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        if rank > 0 or frame < 10:
            mask[4 + 12 * rank : 12 + 12 * rank, 2 * frame : 2 * frame + 10] = True
        rles.append(encode_rle(mask))
    return StoredTracklet(
        rles=tuple(rles),
        frame_scores=np.full(FRAMES, 0.9, dtype=np.float32),
        prompt=StoredPoint(frame=0, x=0.2, y=0.3, value=1.0),
        score=score,
    )


def answer(request: ProposeRequest | SteerRequest, reporter: Reporter) -> StoredProposal | SteerAnswer:
    """What the model process answers in the service tests."""
    return steer(request, reporter) if isinstance(request, SteerRequest) else propose(request, reporter)


def proposing() -> Callable[[ProposeRequest | SteerRequest, Reporter], StoredProposal | SteerAnswer]:
    return answer
