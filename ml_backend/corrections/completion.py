"""From decisions to usable corrections: media and sizes checked, proposals compared, boxes made masks, gaps filled.

Completion runs in a thread of its own, at the lowest priority, and may be stopped at any moment: what it has
not finished is still pending at the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image, ImageOps

from ml_backend.corrections.annotations import read_annotation
from ml_backend.corrections.records import (
    Completed,
    DecidedFrame,
    Decision,
    Evidence,
    FrameCorrection,
    Problem,
    Proposed,
    Side,
    Verdict,
)
from ml_backend.corrections.store import CorrectionStore, KnownProposal, Pending
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import JobState
from ml_backend.jobs.progress import ProgressNotes
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.errors import LabelStudioError, LabelStudioNotFoundError
from ml_backend.label_studio.media_access import (
    MediaError,
    MediaRefusedError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Loader, Media
from ml_backend.models.executor import ModelExecutor, ModelJob, Priority
from ml_backend.models.geometry import TrackBox, box_iou, box_of, mask_iou, upright_box
from ml_backend.models.messages import MaskAnswer, MaskRequest, ModelAnswer, ModelRequest, PropagatedFrame
from ml_backend.proposals import ProposalFiles, StoredProposal, StoredTracklet
from ml_backend.settings import Settings
from steerseg.errors import Cancelled, ConfigError, SteerSegError, VideoError
from steerseg.masks import RLE, mask_area
from steerseg.video import frame_files

log = logging.getLogger(__name__)

KIND = "masks"

UNTOUCHED_IOU = 0.985
"""A mask that overlaps its proposal by as much was not changed, where Label Studio does not say: outlines lose
up to 1 % on their way into Label Studio and back."""

UNTOUCHED_BOX_IOU = 0.95
"""The same for boxes at keyframes, which are rounded alone."""

_SPARE_FRAMES = 2  # by which Label Studio's count of a video's frames may exceed what decodes
_MAX_ATTEMPTS = 5
_RETRY = 60.0  # seconds until what could not be had is tried again


class UnusableError(SteerSegError):
    """A correction cannot be used.

    Attributes:
        problem: Why, as a kind.
    """

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


class GivenUpError(SteerSegError):
    """A person cancelled the model's work on a correction."""


@dataclass(frozen=True)
class Shape:
    """Number and size of the frames of media."""

    num_frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Origin:
    """What a correction began from, with its masks."""

    proposed: Proposed
    tracklet: StoredTracklet


@dataclass
class _Job:
    """The model's work on a correction.

    Attributes:
        id: Number of the job.
        ticket: Of what was asked last.
        cancelled: Whether a person cancelled it.
    """

    id: int
    ticket: ModelJob[ModelRequest, ModelAnswer] | None = None
    cancelled: bool = False


class Completer:
    """Makes pending corrections usable. Safe to share between threads.

    Args:
        settings: Whether to propagate.
        store: The database.
        corrections: The corrections in it.
        media: What fetches media.
        connections: Connections to Label Studio.
        executor: What runs the models.

    Attributes:
        listeners: Called with a project's number after a correction of it became usable; return quickly.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        corrections: CorrectionStore,
        media: Loader,
        connections: Connections,
        executor: ModelExecutor,
    ) -> None:
        self._settings = settings
        self._database = database
        self._project_store = ProjectStore(database)
        self._job_store = JobStore(database)
        self._corrections = corrections
        self._media = media
        self._connections = connections
        self._executor = executor
        self.listeners: list[Callable[[int], None]] = []
        self._files = ProposalFiles(settings.data_dir)
        self._changed = threading.Condition()
        self._news = False
        self._closing = False
        self._not_before: dict[str, float] = {}  # revisions that could not be completed, by monotonic time
        self._working = threading.Lock()
        self._job: _Job | None = None  # there is one at a time
        self._thread = threading.Thread(target=self._follow, name="complete", daemon=True)

    def start(self) -> None:
        """Begin with what an earlier process has left."""
        self.notify()
        self._thread.start()

    def close(self) -> None:
        """Stop; what is not yet complete is taken up at the next start. May be repeated."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def notify(self) -> None:
        """Say that there may be something to complete. Returns at once."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def complete_all(self, project_id: int | None = None, *, patiently: bool = True) -> int:
        """Complete what can be completed, of one project or of all; return how many became usable.

        Args:
            project_id: The project.
            patiently: Leave out for a while what could not be had a while ago.

        Raises:
            StoreError: The database cannot be used.
        """
        usable = 0
        stumbled: set[str] = set()
        with self._working:
            # What needs no model first: an annotator's masks must not wait behind somebody's boxes.
            for with_model in (False, True):
                waiting = self._corrections.pending(project_id)
                if with_model:
                    waiting += self._corrections.unpropagated(project_id)
                    if project_id is None:
                        there = {pending.revision for pending in waiting}
                        self._not_before = {r: t for r, t in self._not_before.items() if r in there}
                for pending in waiting:
                    if self._closing:
                        return usable
                    early = patiently and time.monotonic() < self._not_before.get(pending.revision, 0.0)
                    if early or pending.revision in stumbled:
                        continue
                    done = self._try(pending, with_model=with_model)
                    if done is None:
                        stumbled.add(pending.revision)
                    elif done and not pending.usable:
                        usable += 1
        return usable

    def cancel(self, job_id: int) -> bool:
        """End the model's work on a correction, also in the middle.

        A correction that is usable without it stays as it is; another one is set aside, and tried again when the
        project's annotations are read anew.

        Returns:
            Whether it is under way here; ``False`` where it has ended, or is no completion.
        """
        with self._changed:
            job = self._job
            if job is None or job.id != job_id:
                return False
            job.cancelled = True
            ticket = job.ticket
        if ticket is not None:
            self._executor.cancel(ticket)
        return True

    # --- one correction

    def _try(self, pending: Pending, *, with_model: bool) -> bool | None:
        """Complete one if that needs no more than is allowed; ``None`` where it could not be done."""
        where = f"project {pending.project_id}, task {pending.task_id}, annotation {pending.annotation_id}"
        try:
            done = self._complete(pending, with_model=with_model)
        except StoreError:
            raise
        except Cancelled:
            log.debug("%s: the server is stopping", where)
        except UnusableError as error:
            self._fail(pending, where, error.problem, str(error))
        except GivenUpError as error:
            self._give_up(pending, where, error)
        except SteerSegError as error:
            self._postpone(pending, where, error)
        except Exception as error:
            # One correction that nobody foresaw must not keep the others from being completed.
            log.error("%s: unexpected error", where, exc_info=error)
            self._postpone(pending, where, SteerSegError(f"unexpected {type(error).__name__}"))
        else:
            self._not_before.pop(pending.revision, None)
            for listener in self.listeners if done else ():
                listener(pending.project_id)
            return done
        return None

    def _postpone(self, pending: Pending, where: str, error: SteerSegError) -> None:
        """Try again later what may be a passing trouble, and set it aside when it does not pass."""
        if pending.attempts + 1 < _MAX_ATTEMPTS:
            self._corrections.postpone(pending, str(error))
            self._not_before[pending.revision] = time.monotonic() + _RETRY * (pending.attempts + 1)
            log.info("%s: tried again later: %s", where, error)
            return
        problem = Problem.MEDIA_GONE if isinstance(error, VideoError | LabelStudioError) else Problem.MODEL
        if problem is Problem.MODEL:
            self._give_up(pending, where, error)
        else:
            self._fail(pending, where, problem, str(error))

    def _give_up(self, pending: Pending, where: str, error: SteerSegError) -> None:
        """Go without the model: what is usable stays so, with its gaps."""
        if pending.usable:
            self._corrections.leave_gaps(pending)
            log.warning("%s: nothing was propagated: %s", where, error)
        else:
            self._fail(pending, where, Problem.MODEL, str(error))

    def _fail(self, pending: Pending, where: str, problem: Problem, reason: str) -> None:
        if self._corrections.fail(pending, problem, reason):
            # What was tried again in vain has been said before.
            level = logging.DEBUG if reason == pending.reason else logging.WARNING
            log.log(level, "%s: set aside (%s): %s", where, problem, reason)

    def _complete(self, pending: Pending, *, with_model: bool) -> bool:
        """See :meth:`_try`.

        Raises:
            UnusableError: It cannot be used.
            SteerSegError: It cannot be completed now.
        """
        decision = pending.decision
        project = self._project_store.find(pending.project_id)
        client = None if project is None else self._connections.client(project)
        url = self._settings.label_studio_url if project is None else self._connections.url(project)
        media = self._load(pending, url, client)
        origin, shape = self._origin(pending, media.digest, client)
        shape = shape or folder_shape(media)

        if shape is not None:
            for index, frame in decision.frames.items():
                check_fit(index, frame, decision.side, shape)
        needed = boxes_to_mask(decision, origin, shape)
        gaps = self._settings.propagate_corrections and has_gaps(decision, origin, shape)
        if gaps and origin is not None and shape is not None and not needed:
            # A proposal that was accepted as it was is its own filling.
            gaps = any(frame.touched for frame in decided_frames(decision, origin, shape, {}).values())
        answer = None
        if with_model and (shape is None or needed or gaps):
            answer = self._ask(pending, media, origin, needed, propagate=gaps)
            shape = Shape(answer.num_frames, answer.height, answer.width)
            gaps = False
        if shape is None or (needed and answer is None):
            return False  # its turn comes with the model
        frames = decided_frames(decision, origin, shape, {} if answer is None else answer.boxed)
        completed = Completed(
            media_digest=media.digest,
            num_frames=shape.num_frames,
            height=shape.height,
            width=shape.width,
            frames=frames,
            propagated=propagated_frames(frames, origin, shape, answer),
            proposed=None if origin is None else origin.proposed,
        )
        return self._corrections.complete(pending, completed, propagated=not gaps)

    def _load(self, pending: Pending, url: str | None, client: LabelStudioClient | None) -> Media:
        """Fetch the media.

        Raises:
            UnusableError: They are gone for good.
            SteerSegError: They cannot be had now.
        """
        decision = pending.decision
        try:
            controls = parse_controls(decision.label_config)
            return self._media.load(Task(pending.task_id, decision.task_data), controls, url, client)
        except (ConfigError, MediaRefusedError, MediaTooLargeError) as error:
            raise UnusableError(Problem.MEDIA_GONE, str(error)) from error
        except MediaUnavailableError as error:
            if error.status in (404, 410):
                raise UnusableError(Problem.MEDIA_GONE, str(error)) from error
            raise
        except MediaError:
            raise
        except VideoError as error:
            raise UnusableError(Problem.MEDIA_GONE, str(error)) from error

    def _origin(
        self, pending: Pending, media_digest: str, client: LabelStudioClient | None
    ) -> tuple[Origin | None, Shape | None]:
        """What was proposed, where that is still known, and the shape of the media that it tells."""
        decision = pending.decision
        rows = [
            row
            for row in self._corrections.proposals(pending.project_id, pending.task_id)
            if row.key.media_digest == media_digest
        ]
        if not rows:
            return None, None
        prediction = None
        if client is not None and decision.parent_prediction is not None:
            try:
                prediction = client.predictions.get(decision.parent_prediction)
            except LabelStudioNotFoundError:
                log.debug("prediction %d is gone", decision.parent_prediction)
        reference: Mapping[int, DecidedFrame] = decision.frames
        version = None
        if prediction is not None:
            version = str(prediction.get("model_version"))
            read = read_annotation(
                prediction,
                task_data=decision.task_data,
                label_config=decision.label_config,
                expression=decision.expression,
            )
            reference = read[0].frames or reference
        row = choose_proposal(rows, decision, version)
        stored = self._stored(row or rows[-1])
        if stored is None:
            return None, None
        shape = Shape(len(stored.pts), stored.height, stored.width)
        if row is None or not stored.tracklets:
            return None, shape
        rank = closest_tracklet(stored, reference)
        return Origin(Proposed(row.key, row.path, rank), stored.tracklets[rank]), shape

    def _stored(self, row: KnownProposal) -> StoredProposal | None:
        try:
            return self._files.load(row.path)
        except StoreError as error:
            log.info("no comparison with what was proposed: %s", error)
            return None

    def _ask(
        self,
        pending: Pending,
        media: Media,
        origin: Origin | None,
        boxes: Mapping[int, tuple[TrackBox, ...]],
        *,
        propagate: bool,
    ) -> MaskAnswer:
        """Have the model process turn boxes into masks, and propagate.

        Raises:
            UnusableError: The media cannot be decoded.
            GivenUpError: A person cancelled it.
            SteerSegError: It could not answer.
        """
        frames = pending.decision.frames
        accepted = {i: _proposed(origin, i) for i, frame in frames.items() if frame.boxes and i not in boxes}
        masks = {i: accepted.get(i, frame.rle) for i, frame in frames.items()}
        request = MaskRequest(
            media=media.path,
            fps=media.fps,
            masks={index: rle for index, rle in masks.items() if rle is not None},
            boxes=boxes,
            hidden=frozenset(i for i, frame in frames.items() if frame.rle is None and not frame.boxes),
            propagate=propagate,
        )
        number = self._job_store.add(
            KIND,
            f"correction {pending.id}",
            project_id=pending.project_id,
            task_id=pending.task_id,
            priority=Priority.REFINEMENT,
            expression=pending.decision.expression,
        )
        job = self._job = _Job(number)
        try:
            answer = self._answer(job, request)
        except SteerSegError as error:
            state = JobState.CANCELLED if isinstance(error, Cancelled) else JobState.FAILED
            self._job_store.finish(number, state, error=str(error))
            if isinstance(error, Cancelled) and job.cancelled:
                raise GivenUpError(
                    "the model's work on it was cancelled on request; it is tried again when the project's "
                    "annotations are read anew"
                ) from error
            if isinstance(error, VideoError):
                raise UnusableError(Problem.MEDIA_GONE, str(error)) from error
            raise
        finally:
            self._job = None
        self._job_store.finish(number, JobState.DONE)
        return answer

    def _answer(self, job: _Job, request: MaskRequest) -> MaskAnswer:
        """Ask the model process, again and again while it puts the request down for something more urgent."""
        notes = ProgressNotes(self._database, job.id)
        while True:
            ticket = self._executor.submit(request, priority=Priority.REFINEMENT, on_progress=notes)
            notes.ticket = ticket
            with self._changed:
                job.ticket = ticket
                cancelled = job.cancelled  # while it was put down
            if cancelled:
                self._executor.cancel(ticket)
            answer = ticket.result()
            if isinstance(answer, MaskAnswer):
                return answer

    # --- the thread

    def _follow(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._news or self._closing, self._until_retry())
                if self._closing:
                    return
                self._news = False
            try:
                self.complete_all()
            except StoreError as error:
                log.error("corrections wait: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, _RETRY)
                    self._news = True

    def _until_retry(self) -> float | None:
        """Seconds until the next of what could not be had is tried again."""
        if not self._not_before:
            return None
        return max(0.0, min(list(self._not_before.values()), default=0.0) - time.monotonic())


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
        That of this version; without one, the newest that was there when the annotation was last changed.
    """
    words = decision.proposed_expression or decision.expression
    fitting = [row for row in rows if row.key.expression == words]
    if not fitting:
        fitting = [row for row in rows if row.key.expression == decision.expression]
    if version is not None:
        return next((row for row in reversed(fitting) if row.key.version == version), None)
    before = [row for row in fitting if decision.updated_at is None or row.created_at <= decision.updated_at]
    return next(reversed(before or fitting), None)


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
        with Image.open(files[0]) as image:
            width, height = ImageOps.exif_transpose(image).size
    except (OSError, IndexError, SyntaxError, ValueError) as error:
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
        if frame.boxes and (shape is None or not _box_untouched(frame, _proposed(origin, index), shape))
    }


def has_gaps(decision: Decision, origin: Origin | None, shape: Shape | None) -> bool:
    """Whether frames are left for SAM 2 to fill."""
    if decision.verdict is Verdict.REJECT or decision.absent_elsewhere:
        return False
    if decision.erased and origin is not None:
        return False  # every frame was decided
    if all(frame.rle is None and not frame.boxes for frame in decision.frames.values()):
        return False
    return shape is None or any(index not in decision.frames for index in range(shape.num_frames))


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
        check_fit(index, frame, decision.side, shape)
        if index >= shape.num_frames:
            continue
        proposed = _proposed(origin, index)
        if frame.boxes:
            untouched = _box_untouched(frame, proposed, shape)
            rle = proposed if untouched else boxed.get(index)
            if rle is None:
                continue
            upright = tuple(upright_box(box, shape.height, shape.width) for box in frame.boxes)
            overlap = None if proposed is None else mask_iou(rle, proposed)
            frames[index] = FrameCorrection(Evidence.BOX, rle, upright, not untouched, 1.0, overlap)
            continue
        overlap = None if proposed is None else mask_iou(frame.rle, proposed)
        touched = frame.changed
        if touched is None:
            touched = overlap is None or overlap < UNTOUCHED_IOU
        kind = Evidence.EMPTY if frame.rle is None else Evidence.MASK
        frames[index] = FrameCorrection(kind, frame.rle, (), touched, 1.0, overlap)
    if decision.absent_elsewhere or (decision.erased and origin is not None):
        for index in range(shape.num_frames):
            if index not in frames:
                proposed = _proposed(origin, index)
                overlap = None if proposed is None else mask_iou(None, proposed)
                frames[index] = FrameCorrection(Evidence.EMPTY, None, (), overlap != 1.0, 1.0, overlap)
    if not decision.absent_elsewhere and not any(frame.rle is not None for frame in frames.values()):
        raise UnusableError(
            Problem.NO_MASK,
            "SAM 2 found no object that fills any of the boxes; draw them closer around the object, on frames "
            "where it is clearly visible",
        )
    return dict(sorted(frames.items()))


def propagated_frames(
    frames: Mapping[int, FrameCorrection], origin: Origin | None, shape: Shape, answer: MaskAnswer | None
) -> dict[int, PropagatedFrame]:
    """What is known of the frames that nobody decided: the accepted proposal's masks, or SAM 2's."""
    left = [index for index in range(shape.num_frames) if index not in frames]
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


def check_fit(index: int, frame: DecidedFrame, side: Side, shape: Shape) -> None:
    """Refuse what belongs to other media than these.

    Raises:
        UnusableError: A mask has another size, or a frame is beyond the end.
    """
    what = "page" if side == "frames" else "frame"
    spare = _SPARE_FRAMES if side == "video" else 0
    if index >= shape.num_frames + spare and (frame.rle is not None or frame.boxes):
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


def _proposed(origin: Origin | None, index: int) -> RLE | None:
    """The proposed mask of a frame; ``None`` where no proposal is known."""
    if origin is None or index >= len(origin.tracklet.rles):
        return None
    return origin.tracklet.rles[index]


def _box_untouched(frame: DecidedFrame, proposed: RLE | None, shape: Shape) -> bool:
    box = None if proposed is None else box_of(proposed)
    if box is None or len(frame.boxes) != 1:
        return False
    return box_iou(box, upright_box(frame.boxes[0], shape.height, shape.width)) >= UNTOUCHED_BOX_IOU
