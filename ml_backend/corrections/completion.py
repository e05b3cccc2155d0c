"""From decisions to usable corrections: media and sizes checked, proposals compared, boxes made masks, gaps filled.

Completion runs in a thread of its own, at the lowest priority, and may be stopped at any moment: what it has
not finished is still pending at the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ml_backend.background import BackgroundLoop
from ml_backend.corrections.annotations import read_annotation
from ml_backend.corrections.comparison import (
    Origin,
    Shape,
    UnusableError,
    boxes_to_mask,
    check_fit,
    choose_proposal,
    closest_tracklet,
    decided_frames,
    folder_shape,
    frames_by_index,
    has_gaps,
    propagated_frames,
    proposed_mask,
    without_unseen,
)
from ml_backend.corrections.completion_store import CompletionStore, PendingCorrection
from ml_backend.corrections.mask_jobs import GivenUpError, MaskJobs
from ml_backend.corrections.records import (
    Completion,
    DecidedFrame,
    Problem,
    ProposalReference,
)
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.projects import ProjectStore
from ml_backend.jobs.proposal_store import KnownProposal, ProposalStore
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.errors import LabelStudioError, LabelStudioNotFoundError
from ml_backend.label_studio.frame_numbers import FrameNumbers, numbers_of_video
from ml_backend.label_studio.media_access import (
    MediaError,
    MediaHost,
    MediaRefusedError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Loader, Media
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.geometry import TrackBox
from ml_backend.models.messages import MaskAnswer, MaskRequest
from ml_backend.proposals import ProposalFiles, StoredProposal
from ml_backend.settings import Settings
from steerseg.errors import Cancelled, ConfigError, SteerSegError, VideoError

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 5
_RETRY = 60.0  # seconds until what could not be had is tried again


class Completer:
    """Makes pending corrections usable. Safe to share between threads.

    Args:
        settings: Whether to propagate.
        database: The database.
        media: What fetches media.
        connections: Connections to Label Studio.
        executor: What runs the models.
        listeners: Called with a project's number after a correction of it became usable; return quickly.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        media: Loader,
        connections: Connections,
        executor: ModelExecutor,
        listeners: Iterable[Callable[[int], None]] = (),
    ) -> None:
        self._settings = settings
        self._project_store = ProjectStore(database)
        self._corrections = CompletionStore(database)
        self._proposals = ProposalStore(database)
        self._mask_jobs = MaskJobs(database, executor)
        self._media = media
        self._connections = connections
        self.listeners = list(listeners)
        self._files = ProposalFiles(settings.data_dir)
        self._not_before: dict[str, float] = {}  # revisions that could not be completed, by monotonic time
        self._working = threading.Lock()
        self.loop = BackgroundLoop("completion", self._complete_what_waits, pause=_RETRY)

    def start(self) -> None:
        """Begin with what an earlier process has left."""
        self.loop.start()

    def close(self) -> None:
        """Stop; what is not yet complete is taken up at the next start. May be repeated."""
        self.loop.close(1.0)

    def notify(self, _project_id: int | None = None) -> None:
        """Say that there may be something to complete, of one project or of any. Returns at once."""
        self.loop.notify()

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
                    if self.loop.closing:
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
        return self._mask_jobs.cancel(job_id)

    # --- one correction

    def _try(self, pending: PendingCorrection, *, with_model: bool) -> bool | None:
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

    def _postpone(self, pending: PendingCorrection, where: str, error: SteerSegError) -> None:
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

    def _give_up(self, pending: PendingCorrection, where: str, error: SteerSegError) -> None:
        """Go without the model: what is usable stays so, with its gaps."""
        if pending.usable:
            self._corrections.leave_gaps(pending)
            log.warning("%s: nothing was propagated: %s", where, error)
        else:
            self._fail(pending, where, Problem.MODEL, str(error))

    def _fail(self, pending: PendingCorrection, where: str, problem: Problem, reason: str) -> None:
        if self._corrections.fail(pending, problem, reason):
            # What was tried again in vain has been said before.
            level = logging.DEBUG if reason == pending.reason else logging.WARNING
            log.log(level, "%s: set aside (%s): %s", where, problem, reason)

    def _complete(self, pending: PendingCorrection, *, with_model: bool) -> bool:
        """See :meth:`_try`.

        Raises:
            UnusableError: It cannot be used.
            SteerSegError: It cannot be completed now.
        """
        decision = pending.decision
        project = self._project_store.find(pending.project_id)
        client = None if project is None else self._connections.client(project)
        media = self._load(pending, self._connections.host(project))
        numbers = None
        if decision.side == "video" and media.timeline is not None and media.video is not None:
            numbers = numbers_of_video(media.timeline, media.video.fps(decision.task_data))
            decision = replace(decision, frames=frames_by_index(decision.frames, numbers))
        origin, shape = self._origin(replace(pending, decision=decision), media.digest, client, numbers)
        shape = shape or folder_shape(media)
        decision = without_unseen(decision, origin)
        pending = replace(pending, decision=decision)

        if shape is not None:
            for index, frame in decision.frames.items():
                check_fit(index, frame, decision, shape)
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
        completed = Completion(
            media_digest=media.digest,
            num_frames=shape.num_frames,
            height=shape.height,
            width=shape.width,
            frames=frames,
            propagated=propagated_frames(decision, frames, origin, shape, answer),
            proposed=None if origin is None else origin.proposed,
        )
        return self._corrections.complete(pending, completed, propagated=not gaps)

    def _load(self, pending: PendingCorrection, host: MediaHost | None) -> Media:
        """Fetch the media.

        Raises:
            UnusableError: They are gone for good.
            SteerSegError: They cannot be had now.
        """
        decision = pending.decision
        try:
            controls = parse_controls(decision.label_config)
            return self._media.load(Task(pending.task_id, decision.task_data), controls, host)
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
        self,
        pending: PendingCorrection,
        media_digest: str,
        client: LabelStudioClient | None,
        numbers: FrameNumbers | None,
    ) -> tuple[Origin | None, Shape | None]:
        """What was proposed, where that is still known, and the shape of the media that it tells."""
        decision = pending.decision
        rows = [
            row
            for row in self._proposals.of_task(pending.project_id, pending.task_id)
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
            proposed = read[0].frames
            if numbers is not None and read[0].side == "video":
                proposed = frames_by_index(proposed, numbers)
            reference = proposed or reference
        row = choose_proposal(rows, decision, version)
        stored = self._stored(row or rows[-1])
        if stored is None:
            return None, None
        shape = Shape(len(stored.pts), stored.height, stored.width)
        if row is None or not stored.tracklets:
            return None, shape
        rank = closest_tracklet(stored, reference)
        return Origin(ProposalReference(row.key, row.path, rank), stored.tracklets[rank]), shape

    def _stored(self, row: KnownProposal) -> StoredProposal | None:
        try:
            return self._files.load(row.path)
        except StoreError as error:
            log.info("no comparison with what was proposed: %s", error)
            return None

    def _ask(
        self,
        pending: PendingCorrection,
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
        accepted = {
            i: proposed_mask(origin, i) for i, frame in frames.items() if frame.boxes and i not in boxes
        }
        masks = {i: accepted.get(i, frame.rle) for i, frame in frames.items()}
        request = MaskRequest(
            media=media.path,
            fps=media.fps,
            masks={index: rle for index, rle in masks.items() if rle is not None},
            boxes=boxes,
            hidden=frozenset(i for i, frame in frames.items() if frame.rle is None and not frame.boxes),
            propagate=propagate,
        )
        return self._mask_jobs.ask(pending, request)

    # --- the background loop

    def _complete_what_waits(self) -> float | None:
        """Complete what can be completed; return the seconds until what could not be had is tried again."""
        self.complete_all()
        if not self._not_before:
            return None
        return max(0.0, min(list(self._not_before.values())) - time.monotonic())
