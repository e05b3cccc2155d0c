"""In the model process: what an annotator clicked, boxed and painted becomes one tracklet, by the segmenter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_backend.models.geometry import MAX_CONDITIONING, spread
from ml_backend.models.messages import AGREEMENT, FramePrompt, SteerAnswer, SteerRequest
from ml_backend.proposals import StoredPoint, StoredTracklet
from steerseg.errors import SteerSegError
from steerseg.masks import RLE, decode_rle, encode_rle, iou, mask_area
from steerseg.tracking import EncodedVideo, Prompt, Tracker
from steerseg.video import Progress


def answer_steering(
    tracker: Tracker, encoded: EncodedVideo, request: SteerRequest, progress: Progress
) -> SteerAnswer:
    """Answer a request.

    Painted masks and prompted frames condition the segmenter. A prompted frame takes the tracklet's mask there as
    the answer that its prompts correct. The tracklet's own beginning conditions as well, where it agrees with them.

    Args:
        tracker: The tracker over the segmenter.
        encoded: The video, opened by the tracker.
        request: The request. Frames beyond the end of the video are passed over.
        progress: Called with the stage ``tracking``.

    Raises:
        SteerSegError: Nothing says where the object is.
        Cancelled: ``progress`` raised it.
    """
    progress("tracking", 0.0)
    total = len(encoded)
    conditions = conditions_of(tracker, encoded, request)
    started = tracker.start(encoded, conditions.prompts)
    (tracked,) = tracker.track(encoded, [started], progress=lambda fraction: progress("tracking", fraction))
    given: dict[int, RLE] = {t: rle for t, rle in request.painted.items() if t < total}
    given |= dict.fromkeys((t for t in request.hidden if t < total), _empty(encoded))
    point = conditions.prompts[0].as_point()
    return SteerAnswer(
        tracklet=StoredTracklet(
            rles=tuple(given.get(t, rle) for t, rle in enumerate(tracked.rles)),
            frame_scores=np.asarray(tracked.frame_scores, dtype=np.float32),
            prompt=StoredPoint(frame=point.frame, x=point.x, y=point.y, value=point.value),
            score=started.predicted_iou,
        ),
        kept_track=conditions.kept_track,
        unused=conditions.unused,
    )


@dataclass(frozen=True)
class Conditions:
    """The prompts that the segmenter begins from.

    Attributes:
        prompts: One for each frame that conditions; at least one.
        kept_track: Whether the tracklet so far is among them.
        unused: Prompted frames that say nothing.
    """

    prompts: tuple[Prompt, ...]
    kept_track: bool
    unused: tuple[int, ...]


def conditions_of(tracker: Tracker, encoded: EncodedVideo, request: SteerRequest) -> Conditions:
    """Choose what conditions the segmenter; see :func:`answer_steering`.

    Masks are decoded one at a time and only where they are looked at: those of a long tracklet would take gigabytes.

    Raises:
        SteerSegError: Nothing says where the object is.
    """
    total = len(encoded)
    track = {t: rle for t, rle in enumerate(request.track[:total]) if rle is not None}
    painted = {t: rle for t, rle in request.painted.items() if t < total and mask_area(rle)}
    prompted = {t: prompt for t, prompt in request.prompts.items() if t < total and t not in request.painted}

    prompts = [
        Prompt(frame=t, mask=decode_rle(painted[t])) for t in spread(sorted(painted), MAX_CONDITIONING)
    ]
    answers: dict[int, NDArray[np.bool_]] = {}
    unused: list[int] = []
    for frame in spread(sorted(prompted), MAX_CONDITIONING):
        earlier = decode_rle(track[frame]) if frame in track else None
        chosen = _choose_prompt(tracker, encoded, frame, prompted[frame], earlier)
        if chosen is None:
            unused.append(frame)
            continue
        prompt, answers[frame] = chosen
        prompts.append(prompt)

    agrees = all(
        iou(answers[t] if t in answers else decode_rle(painted[t]), decode_rle(track[t])) >= AGREEMENT
        for t in (*painted, *answers)
        if t in track
    )
    anchor = _anchor(request, track, {prompt.frame for prompt in prompts}) if agrees else None
    if anchor is not None:
        prompts.append(Prompt(frame=anchor, mask=decode_rle(track[anchor])))
    if not prompts:
        raise SteerSegError(
            "clicks that do not belong to the object need an object first; type what to track, or click on it"
        )
    return Conditions(tuple(prompts), anchor is not None, tuple(unused))


def _choose_prompt(
    tracker: Tracker,
    encoded: EncodedVideo,
    frame: int,
    given: FramePrompt,
    earlier: NDArray[np.bool_] | None,
) -> tuple[Prompt, NDArray[np.bool_]] | None:
    """The segmenter's prompt that clicks and a box make, and its mask.

    Args:
        tracker: The tracker over the segmenter.
        encoded: The video.
        frame: The frame that was prompted.
        given: Its clicks and box.
        earlier: The (H, W) mask of the tracklet so far.

    Returns:
        ``None`` where the clicks only say what is not the object, and there is none yet.
    """

    def answered(prompt: Prompt) -> NDArray[np.bool_]:
        started = tracker.start(encoded, [prompt])
        mask: NDArray[np.bool_] = tracker.propagate(encoded, [started], frames=[frame]).masks(0)[0]
        return mask

    pointing = given.box is not None or any(given.labels)
    alone = Prompt(frame=frame, points=given.points, labels=given.labels, box=given.box) if pointing else None
    if earlier is None or not earlier.any():
        return None if alone is None else (alone, answered(alone))
    points, labels = given.points, given.labels
    if not pointing:
        # A click off the object says what to leave out, not what to keep: the segmenter wants both.
        points, labels = (_middle(earlier, points), *points), (True, *labels)
    correcting = Prompt(frame=frame, points=points, labels=labels, box=given.box, earlier=earlier)
    if alone is not None and not _touches(given, earlier):
        # No prompt for the object lies on the tracklet: it may be another one altogether.
        mask = answered(alone)
        if iou(mask, earlier) < AGREEMENT:
            return alone, mask
    return correcting, answered(correcting)


def _touches(prompt: FramePrompt, mask: NDArray[np.bool_]) -> bool:
    """Whether a click on the object, or the box around it, lies on an (H, W) mask."""
    height, width = mask.shape
    for (x, y), positive in zip(prompt.points, prompt.labels, strict=True):
        if positive and mask[min(int(y * height), height - 1), min(int(x * width), width - 1)]:
            return True
    if prompt.box is None:
        return False
    left, top, wide, high = prompt.box
    inside = mask[
        round(top * height) : round((top + high) * height), round(left * width) : round((left + wide) * width)
    ]
    return bool(inside.any())


def _middle(mask: NDArray[np.bool_], avoided: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The position in a mask that is farthest from its edge and from the given positions, in fractions."""
    height, width = mask.shape
    open_ground = mask.astype(np.uint8)
    for x, y in avoided:
        open_ground[min(int(y * height), height - 1), min(int(x * width), width - 1)] = 0
    distances = cv2.distanceTransform(open_ground, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    row, column = np.unravel_index(int(distances.argmax()), distances.shape)
    return (float(column) + 0.5) / width, (float(row) + 0.5) / height


def _anchor(request: SteerRequest, track: Mapping[int, RLE], used: Collection[int]) -> int | None:
    """The frame of the tracklet so far that conditions beside prompts and paint; ``None`` where none is left."""
    areas = {t: mask_area(rle) for t, rle in track.items() if t not in used and t not in request.hidden}
    free = {t: area for t, area in areas.items() if area}
    if request.anchor in free:
        return request.anchor
    return max(free, key=lambda t: (free[t], -t), default=None)


def _empty(encoded: EncodedVideo) -> RLE:
    return encode_rle(np.zeros((encoded.height, encoded.width), dtype=bool))
