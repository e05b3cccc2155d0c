"""In the model process: what an annotator clicked, boxed and painted becomes one tracklet, by the segmenter."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_backend.models.geometry import MAX_CONDITIONING, spread
from ml_backend.models.messages import AGREEMENT, FramePrompt, SteerAnswer, SteerRequest
from ml_backend.proposals import StoredPoint, StoredTracklet
from steerseg.config import Correction
from steerseg.errors import SteerSegError
from steerseg.masks import RLE, decode_rle, encode_rle, iou, mask_area, rle_iou
from steerseg.runtime.lru import LruCache
from steerseg.tracking import Candidate, EncodedVideo, Prompt, StageProgress, Tracker
from steerseg.video import Progress


def answer_steering(
    tracker: Tracker,
    encoded: EncodedVideo,
    request: SteerRequest,
    progress: Progress,
    *,
    correction: Correction,
    corrected: CorrectedObjects | None = None,
) -> SteerAnswer:
    """Answer a request.

    Painted masks and prompted frames condition the segmenter. The tracklet's own beginning conditions as well, where
    it agrees with them. With ``"memory"``, each prompted frame corrects what follows from the conditions before it,
    in the order in which the frames were prompted. With ``"frame"``, it takes the tracklet's mask there as the
    answer that its prompts correct, and knows no other frame.

    Args:
        tracker: The tracker over the segmenter.
        encoded: The video, opened by the tracker.
        request: The request. Frames beyond the end of the video are passed over.
        progress: Called with the stage ``tracking``.
        correction: What prompts on a tracked frame go with.
        corrected: Objects of this video after earlier corrections; all are made again where left out.

    Raises:
        SteerSegError: Nothing says where the object is.
        Cancelled: ``progress`` raised it.
    """
    progress("tracking", 0.0)
    total = len(encoded)
    conditions = conditions_of(tracker, encoded, request, correction)
    half = 0.5 if conditions.corrections else 0.0  # of the work is what corrections take
    known = corrected or CorrectedObjects()
    started = known.make(tracker, encoded, conditions, lambda fraction: progress("tracking", half * fraction))
    (tracked,) = tracker.track(
        encoded, [started], progress=lambda fraction: progress("tracking", half + (1 - half) * fraction)
    )
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
        prompts: One for each frame that conditions from the start; at least one.
        kept_track: Whether the tracklet so far is among them.
        unused: Prompted frames that say nothing.
        corrections: Prompts on tracked frames, in the order in which they correct.
    """

    prompts: tuple[Prompt, ...]
    kept_track: bool
    unused: tuple[int, ...] = ()
    corrections: tuple[Prompt, ...] = ()


class CorrectedObjects:
    """Objects of one video after each of their corrections, so that a further click repeats none before it.

    Args:
        most: Objects that are kept, the least recently used first out. At SAM 2's usual size, each prompted frame of
            one takes a MiB.
    """

    def __init__(self, most: int = 8) -> None:
        self._known = LruCache[tuple[str, ...], Candidate](most)

    def make(
        self, tracker: Tracker, encoded: EncodedVideo, conditions: Conditions, progress: StageProgress
    ) -> Candidate:
        """The object that conditions start, after all of their corrections.

        Args:
            tracker: The tracker over the segmenter.
            encoded: The video.
            conditions: What to start and correct by.
            progress: Called with the fraction of the corrections that is done.
        """
        corrections = conditions.corrections
        start = tuple(_digest(prompt) for prompt in conditions.prompts)
        digests = [_digest(prompt) for prompt in corrections]
        keys = [(*start, *digests[: done + 1]) for done in range(len(corrections))]  # after each correction
        known = [self._known.get(key) for key in keys]
        done = max((index + 1 for index, each in enumerate(known) if each is not None), default=0)
        candidate = known[done - 1] if done else None
        if candidate is None:
            candidate = tracker.start(encoded, conditions.prompts)

        def within(index: int) -> StageProgress:
            return lambda fraction: progress((index + fraction) / len(corrections))

        for index in range(done, len(corrections)):
            candidate = tracker.correct(encoded, candidate, corrections[index], within(index))
            self._known.put(keys[index], candidate)
        return candidate


def _digest(prompt: Prompt) -> str:
    """A digest of a prompt, masks included."""
    plain = repr((prompt.frame, prompt.points, prompt.labels, prompt.box)).encode()
    masks = (b"" if mask is None else np.packbits(mask).tobytes() for mask in (prompt.mask, prompt.earlier))
    return hashlib.sha256(b"|".join((plain, *masks))).hexdigest()


@dataclass(frozen=True)
class _Given:
    """A request without what lies beyond the end of the video.

    Attributes:
        request: The request.
        track: The masks of the tracklet so far, by frame.
        painted: Masks that are not empty.
        prompted: Clicks and boxes of frames that are not painted, in the order of the request.
    """

    request: SteerRequest
    track: Mapping[int, RLE]
    painted: Mapping[int, RLE]
    prompted: Mapping[int, FramePrompt]

    @classmethod
    def of(cls, request: SteerRequest, video: EncodedVideo) -> _Given:
        """The part of a request that a video has.

        Raises:
            SteerSegError: A mask has another size than the video.
        """
        total = len(video)
        prompted = {
            t: prompt for t, prompt in request.prompts.items() if t < total and t not in request.painted
        }
        chosen = set(spread(sorted(prompted), MAX_CONDITIONING))
        track = {t: rle for t, rle in enumerate(request.track[:total]) if rle is not None}
        painted = {t: rle for t, rle in request.painted.items() if t < total and mask_area(rle)}
        for t, rle in (*track.items(), *painted.items()):
            if rle["size"] != [video.height, video.width]:  # what a mask claims decides no memory
                height, width = rle["size"]
                raise SteerSegError(
                    f"the mask on page {t + 1} is {width} x {height}, but the page is {video.width} x {video.height}; "
                    "delete its region and draw it anew"
                )
        return cls(
            request,
            track,
            painted,
            {t: prompt for t, prompt in prompted.items() if t in chosen},
        )

    def painted_prompts(self) -> list[Prompt]:
        """The painted masks that condition."""
        frames = spread(sorted(self.painted), MAX_CONDITIONING)
        return [Prompt(frame=t, mask=decode_rle(self.painted[t])) for t in frames]

    def paint_agrees(self) -> bool:
        """Whether every painted mask lies about where the tracklet so far does."""
        both = (t for t in self.painted if t in self.track)
        return all(rle_iou(self.painted[t], self.track[t]) >= AGREEMENT for t in both)


def conditions_of(
    tracker: Tracker, encoded: EncodedVideo, request: SteerRequest, correction: Correction
) -> Conditions:
    """Choose what conditions the segmenter; see :func:`answer_steering`.

    Masks are decoded one at a time and only where they are looked at: those of a long tracklet would take gigabytes.

    Raises:
        SteerSegError: Nothing says where the object is.
    """
    given = _Given.of(request, encoded)
    remembering = _with_memory(tracker, encoded, given) if correction == "memory" else None
    return remembering or _frames_alone(tracker, encoded, given)


def _with_memory(tracker: Tracker, encoded: EncodedVideo, given: _Given) -> Conditions | None:
    """Paint and the tracklet's beginning, which prompts correct one frame after the other.

    Returns:
        ``None`` where a prompt or paint means another object than the tracklet so far, or where nothing begins.
    """
    if not given.paint_agrees():
        return None
    for frame, prompt in given.prompted.items():
        if frame in given.track and _means_another(
            tracker, encoded, _alone(frame, prompt), decode_rle(given.track[frame])
        ):
            return None
    prompts = given.painted_prompts()
    anchor = _anchor(given.request, given.track, {prompt.frame for prompt in prompts})
    if anchor is not None:
        prompts.append(Prompt(frame=anchor, mask=decode_rle(given.track[anchor])))
    corrections = [Prompt(t, each.points, each.labels, each.box) for t, each in given.prompted.items()]
    if not prompts:
        first = next((prompt for prompt in corrections if prompt.box or any(prompt.labels)), None)
        if first is None:
            return None
        prompts.append(first)
        corrections = [prompt for prompt in corrections if prompt is not first]
    return Conditions(tuple(prompts), anchor is not None, corrections=tuple(corrections))


def _frames_alone(tracker: Tracker, encoded: EncodedVideo, given: _Given) -> Conditions:
    """Paint, and what each prompted frame answers by itself; the tracklet's beginning where it agrees with both."""
    track = given.track
    prompts = given.painted_prompts()
    answers: dict[int, NDArray[np.bool_]] = {}
    unused: list[int] = []
    for frame, prompt in sorted(given.prompted.items()):
        earlier = decode_rle(track[frame]) if frame in track else None
        chosen = _choose_prompt(tracker, encoded, frame, prompt, earlier)
        if chosen is None:
            unused.append(frame)
            continue
        decided, answers[frame] = chosen
        prompts.append(decided)

    agrees = given.paint_agrees() and all(
        iou(answer, decode_rle(track[t])) >= AGREEMENT for t, answer in answers.items() if t in track
    )
    anchor = _anchor(given.request, track, {prompt.frame for prompt in prompts}) if agrees else None
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
    alone = _alone(frame, given)
    if earlier is None or not earlier.any():
        return None if alone is None else (alone, _mask(tracker, encoded, alone))
    points, labels = given.points, given.labels
    if alone is None:
        # A click off the object says what to leave out, not what to keep: the segmenter wants both.
        points, labels = (_middle(earlier, points), *points), (True, *labels)
    if alone is not None and _means_another(tracker, encoded, alone, earlier):
        return alone, _mask(tracker, encoded, alone)
    correcting = Prompt(frame=frame, points=points, labels=labels, box=given.box, earlier=earlier)
    return correcting, _mask(tracker, encoded, correcting)


def _alone(frame: int, given: FramePrompt) -> Prompt | None:
    """Clicks and a box by themselves; ``None`` where they only say what is not the object."""
    if given.box is None and not any(given.labels):
        return None
    return Prompt(frame=frame, points=given.points, labels=given.labels, box=given.box)


def _means_another(
    tracker: Tracker, encoded: EncodedVideo, alone: Prompt | None, earlier: NDArray[np.bool_]
) -> bool:
    """Whether a prompt is for another object altogether: it does not touch the earlier mask, nor does its answer."""
    if alone is None or not earlier.any() or _touches(alone, earlier):
        return False
    return iou(_mask(tracker, encoded, alone), earlier) < AGREEMENT


def _mask(tracker: Tracker, encoded: EncodedVideo, prompt: Prompt) -> NDArray[np.bool_]:
    """The segmenter's (H, W) mask on the prompt's own frame."""
    started = tracker.start(encoded, [prompt])
    mask: NDArray[np.bool_] = tracker.propagate(encoded, [started], frames=[prompt.frame]).masks(0)[0]
    return mask


def _touches(prompt: Prompt, mask: NDArray[np.bool_]) -> bool:
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
