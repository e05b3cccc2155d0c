"""What the worker process of the service tests makes of clicks, boxes and paint: boxes whose place tells of them."""

from __future__ import annotations

import numpy as np

from ml_backend.models.messages import SteerAnswer, SteerRequest
from ml_backend.models.reporter import Reporter
from ml_backend.proposals import StoredPoint, StoredTracklet
from steerseg.errors import SteerSegError
from steerseg.masks import encode_rle

FRAMES = 12


def steer(request: SteerRequest, reporter: Reporter) -> SteerAnswer:
    """A box on every frame whose top row is the number of clicks and boxes; painted frames as given.

    Raises:
        SteerSegError: Nothing was said of where the object is.
    """
    reporter.progress("tracking", 0.5)
    marks = [
        *(label for found in request.prompts.values() for label in found.labels),
        *(True for found in request.prompts.values() if found.box is not None),
    ]
    if not (any(marks) or request.track or request.painted):
        raise SteerSegError("type what to track, or click on it")
    size = next((rle["size"] for rle in request.track if rle is not None), [360, 640])
    rles = []
    for frame in range(FRAMES):
        mask = np.zeros(size, dtype=bool)
        if frame not in request.hidden:
            mask[len(marks) : len(marks) + 4, 2 * frame : 2 * frame + 10] = True
        rles.append(request.painted.get(frame) or encode_rle(mask))
    return SteerAnswer(
        tracklet=StoredTracklet(
            rles=tuple(rles),
            frame_scores=np.full(FRAMES, 0.7, dtype=np.float32),
            prompt=StoredPoint(frame=0, x=0.2, y=0.3, value=1.0),
            score=0.9,
        ),
        kept_track=bool(request.track),
    )
