"""A decision compared with what was proposed and with its media; touches neither database nor network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ml_backend.corrections.records import (
    DecidedFrame,
    Decision,
    Evidence,
    FrameCorrection,
    Problem,
    ProposalReference,
    Verdict,
)
from ml_backend.jobs.proposal_store import KnownProposal
from ml_backend.label_studio.frame_numbers import FrameNumbers
from ml_backend.label_studio.task_media import Media
from ml_backend.models.geometry import TrackBox, box_iou, box_of, mask_iou, upright_box
from ml_backend.models.messages import MaskAnswer, PropagatedFrame
from ml_backend.proposals import StoredProposal, StoredTracklet
from steerseg.errors import SteerSegError, VideoError
from steerseg.masks import RLE, mask_area
from steerseg.video import frame_files
from steerseg.video.loading import picture_size

UNTOUCHED_IOU = 0.985
"""A mask that overlaps its proposal by as much was not changed, where Label Studio does not say: outlines lose
up to 1 % on their way into Label Studio and back."""

UNTOUCHED_BOX_IOU = 0.95
"""The same for boxes at keyframes, which are rounded alone."""

_SPARE_FRAMES = 2  # by which Label Studio's count of a video's frames may exceed what decodes


class UnusableError(SteerSegError):
    """A correction cannot be used.

    Attributes:
        problem: Why, as a kind.
    """

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


@dataclass(frozen=True)
class Shape:
    """Number and size of the frames of media."""

    num_frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Origin:
    """What a correction began from, with its masks."""

    proposed: ProposalReference
    tracklet: StoredTracklet


# --- what was proposed


def choose_proposal(
    rows: list[KnownProposal], decision: Decision, version: str | None
) -> KnownProposal | None:
    """The proposal that an annotation began from.

    Args:
        rows: Of the task and its media, oldest first.
        decision: The annotation's object.
        version: Which version made the prediction that the annotation began from, where that is known.

    Returns:
        That of this version; without one, the newest that was there when the annotation was last changed. What came
        later is nothing that it began from, except where it says that it began from a proposal: then two clocks
        disagree.
    """
    expression = decision.proposed_expression or decision.expression
    fitting = [row for row in rows if row.key.expression == expression]
    if not fitting:
        fitting = [row for row in rows if row.key.expression == decision.expression]
    if version is not None:
        return next((row for row in reversed(fitting) if row.key.version == version), None)
    before = [row for row in fitting if decision.updated_at is None or row.created_at <= decision.updated_at]
    began_from_one = decision.proposed_expression is not None or decision.parent_prediction is not None
    return next(reversed(before or (fitting if began_from_one else [])), None)


def closest_tracklet(stored: StoredProposal, reference: Mapping[int, DecidedFrame]) -> int:
    """Which tracklet of a proposal overlaps the reference most; the first where nothing tells."""

    def overlap(tracklet: StoredTracklet) -> float:
        total = 0.0
        for index, frame in reference.items():
            if index >= len(tracklet.rles):
                continue
            proposed = tracklet.rles[index]
            if frame.boxes:
                box = box_of(proposed)
                mine = upright_box(frame.boxes[0], *proposed["size"])
                total += 0.0 if box is None else box_iou(box, mine)
            elif frame.rle is not None and frame.rle["size"] == proposed["size"]:
                total += mask_iou(frame.rle, proposed)
        return total

    return max(range(len(stored.tracklets)), key=lambda rank: overlap(stored.tracklets[rank]))


# --- what was decided


def folder_shape(media: Media) -> Shape | None:
    """The shape of a folder of frames; ``None`` for a video file, which has to be decoded for it.

    Raises:
        UnusableError: A page cannot be read.
    """
    if media.frames is None:
        return None
    try:
        files = frame_files(media.path)
        width, height = picture_size(files[0])
    except (OSError, IndexError, VideoError) as error:
        raise UnusableError(
            Problem.MEDIA_GONE, f"the task's pages cannot be read ({type(error).__name__}); import them again"
        ) from error
    return Shape(len(files), height, width)


def boxes_to_mask(
    decision: Decision, origin: Origin | None, shape: Shape | None
) -> dict[int, tuple[TrackBox, ...]]:
    """The boxes that need SAM 2: those that were drawn or moved; others have the proposal's mask."""
    if decision.verdict is Verdict.REJECT:
        return {}
    return {
        index: frame.boxes
        for index, frame in decision.frames.items()
        if frame.boxes and (shape is None or not _box_untouched(frame, proposed_mask(origin, index), shape))
    }


def has_gaps(decision: Decision, origin: Origin | None, shape: Shape | None) -> bool:
    """Whether frames are left for SAM 2 to fill."""
    if decision.verdict is Verdict.REJECT or decision.absent_elsewhere:
        return False
    if decision.erased and origin is not None:
        return False  # every frame was decided
    if all(frame.rle is None and not frame.boxes for frame in decision.frames.values()):
        return False
    known = decision.frames.keys() | decision.undecided
    return shape is None or any(index not in known for index in range(shape.num_frames))


def decided_frames(
    decision: Decision, origin: Origin | None, shape: Shape, boxed: Mapping[int, RLE]
) -> dict[int, FrameCorrection]:
    """What the annotator decided, frame by frame, compared with what was proposed.

    Args:
        decision: What the annotation says.
        origin: What was proposed.
        shape: Of the media.
        boxed: SAM 2's masks of boxes.

    Raises:
        UnusableError: Masks and media do not fit, or nothing visible is left.
    """
    if decision.verdict is Verdict.REJECT:
        return {}
    frames: dict[int, FrameCorrection] = {}
    for index, frame in decision.frames.items():
        check_fit(index, frame, decision, shape)
        if index < shape.num_frames:
            decided = _decided_frame(index, frame, origin, shape, boxed.get(index))
            if decided is not None:
                frames[index] = decided
    if decision.absent_elsewhere or (decision.erased and origin is not None):
        for index in range(shape.num_frames):
            if index not in frames and index not in decision.undecided:
                frames[index] = _empty_frame(index, origin)
    if not decision.absent_elsewhere and not any(frame.rle is not None for frame in frames.values()):
        raise UnusableError(
            Problem.NO_MASK,
            "SAM 2 found no object that fills any of the boxes; draw them closer around the object, on frames "
            "where it is clearly visible",
        )
    return dict(sorted(frames.items()))


def _decided_frame(
    index: int, frame: DecidedFrame, origin: Origin | None, shape: Shape, boxed: RLE | None
) -> FrameCorrection | None:
    """One frame of the annotation; ``None`` where SAM 2 found nothing that fills its boxes."""
    proposed = proposed_mask(origin, index)
    if frame.boxes:
        untouched = _box_untouched(frame, proposed, shape)
        rle = proposed if untouched else boxed
        if rle is None:
            return None
        upright = tuple(upright_box(box, shape.height, shape.width) for box in frame.boxes)
        overlap = None if proposed is None else mask_iou(rle, proposed)
        confidence = _certainty(origin, index) if untouched else 1.0
        return FrameCorrection(Evidence.BOX, rle, upright, not untouched, 1.0, overlap, confidence)
    overlap = None if proposed is None else mask_iou(frame.rle, proposed)
    touched = frame.changed
    if touched is None:
        touched = overlap is None or overlap < UNTOUCHED_IOU
    kind = Evidence.EMPTY if frame.rle is None else Evidence.MASK
    known = frame.confidence
    if known is None and overlap is not None and overlap >= UNTOUCHED_IOU:
        known = _certainty(origin, index)
    confidence = 1.0 if touched or known is None else known
    return FrameCorrection(kind, frame.rle, (), touched, 1.0, overlap, confidence)


def _empty_frame(index: int, origin: Origin | None) -> FrameCorrection:
    """A frame that the annotation leaves empty."""
    proposed = proposed_mask(origin, index)
    overlap = None if proposed is None else mask_iou(None, proposed)
    touched = overlap != 1.0
    confidence = 1.0 if touched else _certainty(origin, index)
    return FrameCorrection(Evidence.EMPTY, None, (), touched, 1.0, overlap, confidence)


def _certainty(origin: Origin | None, index: int) -> float:
    """How certain a proposal was of a frame, in [0, 1]: that the object is there, or that it is not."""
    assert origin is not None, "a frame that is as it was proposed has a proposal"
    score = min(max(float(origin.tracklet.frame_scores[index]), 0.0), 1.0)
    return score if mask_area(origin.tracklet.rles[index]) else 1.0 - score


def propagated_frames(
    decision: Decision,
    frames: Mapping[int, FrameCorrection],
    origin: Origin | None,
    shape: Shape,
    answer: MaskAnswer | None,
) -> dict[int, PropagatedFrame]:
    """What is known of the frames that nobody decided: the accepted proposal's masks, or SAM 2's.

    Frames that the annotator rejected stay without.
    """
    left = [i for i in range(shape.num_frames) if i not in frames and i not in decision.undecided]
    if not frames:
        return {}
    if origin is not None and not any(frame.touched for frame in frames.values()):
        tracklet = origin.tracklet
        return {
            index: PropagatedFrame(tracklet.rles[index], float(tracklet.frame_scores[index]))
            if mask_area(tracklet.rles[index])
            else PropagatedFrame(None, 1.0 - float(tracklet.frame_scores[index]))
            for index in left
            if index < len(tracklet.rles)
        }
    if answer is None:
        return {}
    return {index: answer.propagated[index] for index in left if index in answer.propagated}


def frames_by_index(frames: Mapping[int, DecidedFrame], numbers: FrameNumbers) -> dict[int, DecidedFrame]:
    """Give decisions on Label Studio's frame numbers to the frames that its player showed there.

    A frame that was shown at several numbers has the box of the first that has one. It is hidden where it is hidden at
    all of them, and undecided otherwise. Frames that were never shown are undecided.

    Args:
        frames: Decisions by Label Studio's number, less one.
        numbers: Which frame is shown at each number.

    Returns:
        Decisions by decode index; those beyond the last number stay beyond the last frame.
    """
    if numbers.is_plain:
        return dict(frames)
    shown: dict[int, list[DecidedFrame | None]] = {}
    for number, index in enumerate(numbers.shown.tolist()):
        shown.setdefault(index, []).append(frames.get(number))
    by_index = {}
    for index, decided in shown.items():
        drawn = [frame for frame in decided if frame is not None and (frame.rle is not None or frame.boxes)]
        hidden = decided[0] if None not in decided else None
        chosen = drawn[0] if drawn else hidden
        if chosen is not None:
            by_index[index] = chosen
    beyond = numbers.frames - len(numbers.shown)
    return by_index | {
        number + beyond: frame for number, frame in frames.items() if number >= len(numbers.shown)
    }


def without_unseen(decision: Decision, origin: Origin | None) -> Decision:
    """Leave the frames before a box track begins undecided, unless the track comes from a known proposal.

    Label Studio hides a track before its first keyframe, whether anybody looked there or not. A proposed track says
    where it begins, and so does one that was proposed and then changed.
    """
    first = min((index for index, frame in decision.frames.items() if frame.boxes), default=0)
    if origin is not None and decision.proposed_expression is not None:
        return decision
    frames = {
        index: frame
        for index, frame in decision.frames.items()
        if index >= first or frame.rle is not None or frame.changed
    }
    return replace(decision, frames=frames)


def check_fit(index: int, frame: DecidedFrame, decision: Decision, shape: Shape) -> None:
    """Refuse what belongs to other media than these.

    Raises:
        UnusableError: A mask has another size, or a frame is beyond the end.
    """
    what = "page" if decision.side == "frames" else "frame"
    spare = _SPARE_FRAMES if decision.side == "video" else 0
    if index >= shape.num_frames + spare and (frame.rle is not None or frame.boxes):
        if decision.numbering is not None and decision.numbering[0] > shape.num_frames + spare:
            count, rate = decision.numbering
            raise UnusableError(
                Problem.FRAME_RATE,
                f"its boxes are numbered for {count} frames at {rate:g} a second, but the video has "
                f"{shape.num_frames}: give the task's data the video's own rate as fps, or put its video back if it "
                "was replaced, and annotate it anew",
            )
        raise UnusableError(
            Problem.WRONG_SIZE,
            f"{what} {index + 1} is annotated, but there are {shape.num_frames}; the task's media were "
            "replaced: annotate it anew",
        )
    size = None if frame.rle is None else tuple(frame.rle["size"])
    if size not in (None, (shape.height, shape.width)):
        assert size is not None
        raise UnusableError(
            Problem.WRONG_SIZE,
            f"the mask on {what} {index + 1} is {size[1]} x {size[0]}, but the {what}s are {shape.width} x "
            f"{shape.height}; the task's media were replaced: annotate it anew",
        )


def proposed_mask(origin: Origin | None, index: int) -> RLE | None:
    """The proposed mask of a frame; ``None`` where no proposal is known."""
    if origin is None or index >= len(origin.tracklet.rles):
        return None
    return origin.tracklet.rles[index]


def _box_untouched(frame: DecidedFrame, proposed: RLE | None, shape: Shape) -> bool:
    box = None if proposed is None else box_of(proposed)
    if box is None or len(frame.boxes) != 1:
        return False
    return box_iou(box, upright_box(frame.boxes[0], shape.height, shape.width)) >= UNTOUCHED_BOX_IOU
