"""What each request of Label Studio means. Knows nothing of Flask; everything slow happens elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ml_backend.background import BackgroundLoop
from ml_backend.corrections.completion import Completer
from ml_backend.corrections.ingestion import Ingestor
from ml_backend.corrections.records import Weights
from ml_backend.corrections.report import CorrectionsReport
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.database.tables import ProposalKey
from ml_backend.expressions import alternatives_for, task_expression
from ml_backend.interactive.answer import Answer, Call
from ml_backend.interactive.frame_answer import FrameCalls
from ml_backend.interactive.lifecycle import StateLifecycle
from ml_backend.interactive.request import InteractiveRequest, read_context, side_of
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages
from ml_backend.interactive.video_answer import answer_video, video_beside
from ml_backend.jobs.listing import count_jobs, list_jobs, read_name
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.proposals import Proposer
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.controls import Controls, FramesSide
from ml_backend.label_studio.errors import LabelStudioUnreachableError
from ml_backend.label_studio.regions import tracklet_to_frames_regions, tracklet_to_video_region
from ml_backend.label_studio.results import Result, expression_result, status_result
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Loader, Media
from ml_backend.metrics import Metrics
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.messages import ProposeRequest
from ml_backend.models.queue import Priority
from ml_backend.models.workers import WorkerState
from ml_backend.predictions.batch import answer_item
from ml_backend.predictions.deliveries import Deliveries, Delivery, Place
from ml_backend.predictions.late import LOOK_AGAIN, PAUSE, PUSHERS, REMEMBERED_PUSHES
from ml_backend.predictions.messages import DEFAULT_GUIDANCE, Guidance, describe_proposal
from ml_backend.predictions.repredict import Repredictor
from ml_backend.predictions.results import label_studio_score, object_name
from ml_backend.predictions.tasks import TaskStore
from ml_backend.predictions.work import PREPARERS, Steering, Work, pass_on
from ml_backend.proposals import ProposalFiles, StoredProposal
from ml_backend.refinement.manager import RefinementManager
from ml_backend.refinement.run import RefinementSettings
from ml_backend.refinement.training_events import TrainingHandler
from ml_backend.refinement.version_store import PromptVersion, VersionStore
from ml_backend.refinement.versions import PromptLine
from ml_backend.requests import (
    PredictRequest,
    RequestError,
    parse_predict,
    parse_project_id,
    parse_setup,
    parse_webhook,
)
from ml_backend.settings import Schedule, Settings
from steerseg.errors import Cancelled, ConfigError, ExpressionError, SteerSegError, VideoError
from steerseg.presets import find_preset, load_preset
from steerseg.reasoning import check_expression

log = logging.getLogger(__name__)

_ACTIONS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATION_DELETED",
        "ANNOTATIONS_CREATED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "PROJECT_UPDATED",
        "START_TRAINING",
    }
)
_SEEN_AGAIN = 60.0  # seconds after which a project is noted as seen again


class Service:
    """The backend without its web server. Safe to share between threads.

    Args:
        settings: The settings in force.
        store: The database.
        executor: What runs the models.
        media: What fetches a task's media.
        metrics: What counts.
        base_version: Version of predictions by the preset itself.
        model: Fingerprint of the preset's vision-language model, which prompt versions are made for.
        guidance: What the preset says about its answers, for annotators.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database,
        executor: ModelExecutor,
        media: Loader,
        metrics: Metrics,
        base_version: str,
        model: str,
        guidance: Guidance = DEFAULT_GUIDANCE,
    ) -> None:
        self.settings = settings
        self._guidance = guidance
        self.metrics = metrics
        self._database = database
        self._proposal_store = ProposalStore(database)
        self._event_store = EventStore(database)
        self._project_store = ProjectStore(database)
        self._tasks = TaskStore(database)
        self._executor = executor
        self._media = media
        self._base_version = base_version
        self.line = PromptLine(VersionStore(database), settings.data_dir, model)
        self._proposer = Proposer(database, ProposalFiles(settings.data_dir), executor, metrics)
        self._told = TaskStateStore(database)
        self._steering_jobs = SteeringJobs(database, executor, metrics)
        self._frame_calls = FrameCalls(self._told, self._steering_jobs, guidance)
        self._preparers = {
            Priority.BATCH: ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare-batch"),
            Priority.INTERACTIVE: ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare-interactive"),
        }
        self._pushers = ThreadPoolExecutor(PUSHERS, thread_name_prefix="push")
        self._lock = threading.Lock()
        self._connections = Connections(settings)
        self._unseen = SubmittedPages(database, self._told, self._connections)
        self.corrections = CorrectionStore(database)
        self.completer = Completer(settings, database, media, self._connections, executor)
        self.ingestor = Ingestor(
            settings,
            database,
            self._connections,
            lambda _: self.completer.notify(),
            complete=self._unseen.complete,
            handlers=[
                StateLifecycle(self._told, self._unseen),
                TrainingHandler(
                    self._project_store,
                    lambda project_id, trigger: self.refinements.request(project_id, trigger),
                ),
            ],
        )
        preset = load_preset(find_preset(settings.preset))
        self.refinements = RefinementManager(
            RefinementSettings(
                recipe=preset.recipe,
                replay=preset.replay,
                base_version=base_version,
                data_dir=settings.data_dir,
                feature_bytes=settings.refine_cache_bytes,
                confidence=settings.propagation_confidence,
                weights=Weights.from_settings(settings),
            ),
            refine_after=settings.refine_after,
            schedule=None if settings.refine_schedule is None else Schedule.parse(settings.refine_schedule),
            database=database,
            line=self.line,
            media=media,
            connections=self._connections,
            executor=executor,
            refresh=self.refresh_corrections,
        )
        self.completer.listeners.append(self.refinements.corrected)
        self._repredictor = Repredictor(
            database,
            self._connections,
            version=lambda project_id: self._steering(project_id).version,
            predict=self._predict_again,
        )
        # Late predictions by project, task and version. Whoever takes one out delivers it, so that none is
        # stored twice when the task is asked for again in the meantime.
        self._late: dict[Place, Work] = {}
        self._pushed: dict[Place, float] = {}  # when, by this process's clock
        self._deliveries = Deliveries(database, settings.max_queue)
        self._closing = threading.Event()
        self._delivery_loop = BackgroundLoop("deliveries", self._follow_deliveries, pause=PAUSE)
        self._loops = (
            *self.ingestor.loops,
            self.completer.loop,
            self.refinements.loop,
            self._repredictor.loop,
            self._delivery_loop,
        )
        metrics.watch(
            queue_length=lambda: executor.queue_length,
            restarts=lambda: sum(status.restarts for status in executor.statuses),
            loops=self._loops,
        )
        # A worker's death counts as an attempt, and so does the server's: twice as many together.
        self._proposer.recover({owed.place for owed in self._deliveries.left()}, 2 * settings.max_attempts)

    def start(self) -> None:
        """Begin the work that no request asks for: from annotations to corrections to better prompts."""
        self.ingestor.start()
        self.completer.start()
        self.refinements.start()
        self._delivery_loop.start()
        if self.settings.repredict and self.settings.push_predictions:
            self._repredictor.start()

    def close(self) -> None:
        """Stop the model processes; what is owed to Label Studio goes on with the next start."""
        self._closing.set()
        self._delivery_loop.stop()
        self._proposer.stop()
        self.ingestor.close()
        self._executor.close()
        self.completer.close()
        self.refinements.close()
        self._repredictor.close()
        self._delivery_loop.close()
        for pool in (*self._preparers.values(), self._pushers):
            pool.shutdown(wait=False, cancel_futures=True)
        self._connections.close()
        self._database.close()

    # --- what the pages show

    @property
    def database(self) -> Database:
        """The database."""
        return self._database

    @property
    def guidance(self) -> Guidance:
        """What the preset says about its answers."""
        return self._guidance

    def task_media(self, project_id: int, task_id: int, digest: str) -> Media:
        """The media of a task that was predicted; fetched again where the cache no longer has them.

        Args:
            project_id: The project.
            task_id: The task.
            digest: Of the media that are meant.

        Raises:
            RequestError: The project is unknown.
            VideoError: The task is not known any more, or its media are gone, or others by now.
            ConfigError: The labelling configuration cannot hold proposals.
        """
        project = self._known_project(project_id)
        data = self._tasks.data(project_id, task_id)
        if data is None:
            raise VideoError(
                f"what task {task_id} consists of was not kept; it is when it is predicted again"
            )
        client = self._connections.client(project)
        media = self._media.load(
            Task(task_id, data), parse_controls(project.label_config), self._connections.url(project), client
        )
        if media.digest != digest:
            raise VideoError(f"the media of task {task_id} were replaced since this was proposed")
        return media

    def jobs(self, limit: int = 100) -> dict[str, Any]:
        """Jobs and refinements, what runs first and then the newest, JSON-ready, and how many are in each state.

        Raises:
            StoreError: The database cannot be read.
        """
        return {
            "counts": {str(state): number for state, number in count_jobs(self._database).items()},
            "jobs": [job.to_json() for job in list_jobs(self._database, limit)],
        }

    def cancel(self, name: str) -> None:
        """End a job or a refinement, also in the middle; what it was for may be asked for again.

        Args:
            name: As the list of jobs names it; see :class:`~ml_backend.jobs.listing.ListedJob`.

        Raises:
            RequestError: It is no name of a job, or the job is not under way.
            StoreError: The database cannot be used.
        """
        read = read_name(name)
        if read is None:
            raise RequestError(
                404,
                f"{name!r} is no name of a job",
                "GET /jobs lists them; their names are like 7 or refine-3.",
            )
        refinement, number = read
        ends = (
            (self.refinements.cancel,)
            if refinement
            else (self._proposer.cancel, self._steering_jobs.cancel, self.completer.cancel)
        )
        if not any(end(number) for end in ends):
            raise RequestError(
                409,
                f"job {name} cannot be cancelled: it has ended, or another process has it",
                "GET /jobs lists what is under way.",
            )
        log.info("job %s is cancelled on request", name)

    # --- what Label Studio asks

    def health(self) -> dict[str, Any]:
        """Whether the server is up, and what the models are doing. Touches neither models nor database."""
        statuses = self._executor.statuses
        return {
            "status": "UP",
            "model_class": "SteerSeg",
            "model_version": self._base_version,
            "workers": [
                {"state": str(status.state), "restarts": status.restarts, "error": status.error}
                for status in statuses
            ],
            "ready": any(status.state in (WorkerState.READY, WorkerState.BUSY) for status in statuses),
            "queued": self._executor.queue_length,
            "loops": [loop.status.to_json() for loop in self._loops if loop.started],
        }

    def setup(self, body: object) -> dict[str, Any]:
        """Learn a project and say which version its predictions have.

        Raises:
            RequestError: The body is unusable.
            ConfigError: The labelling configuration cannot hold proposals.
        """
        request = parse_setup(body)
        known = self._project_store.find(request.project_id)
        hostname = request.hostname or (known.hostname if known else "")
        extra_params = request.extra_params
        if extra_params is None:
            extra_params = known.extra_params if known else {}
        described = (request.uid, request.label_config, hostname, extra_params)
        # Label Studio introduces a project over and over: what has not changed is not written each time.
        if (
            known is None
            or described != (known.uid, known.label_config, known.hostname, known.extra_params)
            or (datetime.now(UTC) - known.last_seen).total_seconds() > _SEEN_AGAIN
        ):
            self._project_store.save(
                request.project_id,
                uid=request.uid,
                label_config=request.label_config,
                hostname=hostname,
                extra_params=extra_params,
            )
        if request.access_token is not None:
            self._connections.learn(request.project_id, request.access_token)
            self._delivery_loop.notify()
        self.ingestor.introduce(request.project_id)
        # After it was noted, so that a later /predict of the project says what is wrong as well.
        parse_controls(request.label_config)
        return {"model_version": self._steering(request.project_id).version}

    def versions(self, project: str | None) -> dict[str, Any]:
        """The versions of one project, newest last, and the one in use; the preset's where none is named.

        Raises:
            RequestError: The project is unknown.
        """
        if project is None:
            return {"versions": [self._base_version], "current": self._base_version}
        known = self._known_project(parse_project_id(project))
        refined = [self._refined_version(version) for version in self.line.versions.versions(known.id)]
        return {
            "versions": [self._base_version, *refined],
            "current": self._steering(known.id).version,
        }

    def webhook(self, body: object) -> int:
        """Commit an event and return its number; it is on disk when this returns.

        Raises:
            RequestError: The body is unusable.
            StoreError: It could not be committed.
        """
        event = parse_webhook(body)
        number = self._event_store.add(event.action, event.project_id, event.payload)
        # Only known names become labels: anyone may invent an action, and every label costs memory.
        self.metrics.webhooks.labels(event.action if event.action in _ACTIONS else "other").inc()
        self.ingestor.notify()
        return number

    def refine(self, project: str) -> dict[str, Any]:
        """Ask for a refinement of a project and say how it stands, beside the number of the one that takes it in.

        Raises:
            RequestError: The project is unknown.
            StoreError: The database cannot be used.
        """
        known = self._known_project(parse_project_id(project))
        requested = self.refinements.request(known.id, "a request")
        return {"requested": requested.id, **self.refinements.status(known.id)}

    def refinement(self, project: str) -> dict[str, Any]:
        """How a project's refinements stand.

        Raises:
            RequestError: The project is unknown.
            StoreError: The database cannot be read.
        """
        return self.refinements.status(self._known_project(parse_project_id(project)).id)

    def refresh_corrections(self, project_id: int) -> None:
        """Read a project's annotations from Label Studio and complete their corrections; may take long.

        Raises:
            SteerSegError: Label Studio cannot be asked, or the database not be used.
        """
        self.ingestor.reconcile(project_id)
        self.completer.complete_all(project_id, patiently=False)

    def project_corrections(self, project: str) -> dict[str, Any]:
        """How a project's corrections stand, and what is set aside for which reason.

        Raises:
            RequestError: The project is unknown.
            StoreError: The database cannot be read.
        """
        known = self._known_project(parse_project_id(project))
        aside = self.corrections.list_set_aside(known.id)
        return CorrectionsReport.of(self.corrections.counts(known.id), aside).model_dump(mode="json")

    def overview(self) -> dict[str, Any]:
        """What the start page shows.

        Raises:
            StoreError: The database cannot be read.
        """
        return {
            "version": self._base_version,
            "workers": self._executor.statuses,
            "job_counts": count_jobs(self._database),
            "proposals": self._proposal_store.count(),
            "events": self._event_store.count(),
            "projects": [
                (project, self.corrections.counts(project.id), self._steering(project.id).version)
                for project in self._project_store.all()
            ],
            "set_aside": self.corrections.list_set_aside(limit=20),
            "refinements": self.refinements.latest(),
            "jobs": list_jobs(self._database, 8),
        }

    def predict(self, body: object) -> dict[str, Any]:
        """Predict tasks, or answer an annotator's interactive call.

        The answer's ``results`` has one item per task, in order. In a batch an item is a prediction, or a
        list of predictions with the best last; an empty list makes Label Studio store nothing and ask again
        later. ``errors`` and ``pending`` say which tasks failed and which are still being worked on; Label
        Studio passes over both.

        Raises:
            RequestError: The body is unusable or the project unknown.
            ConfigError: The labelling configuration cannot hold proposals.
        """
        deadline = time.monotonic() + self.settings.predict_timeout
        request = parse_predict(body)
        project = self._known_project(request.project_id)
        controls = parse_controls(request.label_config)
        if request.context is not None:
            return self._interactive(request, project, controls, deadline)
        return self._batch(request, project, controls, deadline)

    # --- batches

    def _batch(
        self, request: PredictRequest, project: Project, controls: Controls, deadline: float
    ) -> dict[str, Any]:
        steering = self._steering(project.id)
        version = steering.version
        if not request.deliver_late:
            return self._answer_batch(request, project, controls, deadline, steering)
        owed = [Delivery(project.id, task, version) for task in request.tasks]
        self._deliveries.admit(owed)
        try:
            return self._answer_batch(request, project, controls, deadline, steering)
        except BaseException:
            self._deliveries.put_off(delivery.place for delivery in owed)
            raise

    def _answer_batch(
        self,
        request: PredictRequest,
        project: Project,
        controls: Controls,
        deadline: float,
        steering: Steering,
    ) -> dict[str, Any]:
        version = steering.version
        begun = time.monotonic()
        works = [
            self._begin(
                Work(task),
                project,
                controls,
                partial(task_expression, task.data, project.extra_params, self.settings),
                steering,
                Priority.BATCH,
            )
            for task in request.tasks
        ]
        items: dict[int, list[dict[str, Any]]] = {}
        failures: dict[int, Exception] = {}
        errors: dict[int, str] = {}
        pushed: set[int] = set()
        by_outcome = {work.outcome: index for index, work in enumerate(works)}
        try:
            for outcome in as_completed(by_outcome, timeout=max(0.0, deadline - time.monotonic())):
                index = by_outcome[outcome]
                work = works[index]
                try:
                    items[index] = self._predictions(work, outcome.result(), version)
                except Exception as error:
                    failures[index] = error
                    errors[index] = self._note_task_error(project, work.task, error)
                if not self._take_late(project, work.task, version) and self._pushed_since(
                    (project.id, work.task.id, version), begun
                ):
                    pushed.add(index)  # it was stored while this request waited: once is enough
                    items[index] = []
                if time.monotonic() > deadline:
                    raise TimeoutError  # writing many regions takes its time as well
        except TimeoutError:
            log.info("/predict: %d of %d tasks within the time limit", len(items), len(works))
        pending = [index for index in range(len(works)) if index not in items and index not in errors]
        for index in pending if request.deliver_late else ():
            self._deliver_late(works[index], project, version)
        for index, predictions in items.items():
            if index in pushed:
                continue
            self.metrics.predictions.labels("answered" if predictions else "empty").inc()
            if not predictions:
                errors[index] = f"nothing in the video matches {works[index].expression!r}"
        self._settle((project.id, works[index].task.id, version) for index in items)
        for index, failure in failures.items():
            self._settle([(project.id, works[index].task.id, version)], failure)
        return {
            "results": [answer_item(items.get(index, [])) for index in range(len(works))],
            "model_version": version,
            "errors": {str(works[index].task.id): message for index, message in sorted(errors.items())},
            "pending": [works[index].task.id for index in pending],
        }

    def _begin(
        self,
        work: Work,
        project: Project,
        controls: Controls,
        expression: Callable[[], str],
        steering: Steering,
        priority: Priority,
    ) -> Work:
        """Have a task's media fetched and its proposal made, without waiting for either."""

        def prepare(*, again: bool = False) -> None:
            try:
                work.expression = expression()
                work.media = self._media.load(
                    work.task, controls, self._connections.url(project), self._connections.client(project)
                )
                self._tasks.note(project.id, work.task.id, work.task.data)
                wish = self._proposer.request(
                    ProposalKey(work.media.digest, work.expression, steering.version),
                    ProposeRequest(
                        media=work.media.path,
                        expression=work.expression,
                        fps=work.media.fps,
                        alternatives=alternatives_for(work.expression, self.settings.alternatives),
                        soft_prompts=steering.prompts,
                    ),
                    owner=(project.id, work.task.id),
                    priority=priority,
                )
            except Exception as error:
                work.outcome.set_exception(error)
            else:
                work.wish = wish
                file = None if again or not work.media.path.exists() else work.media.path
                wish.future.add_done_callback(lambda future: answered(future, file))

        def answered(future: Future[StoredProposal], file: Path | None) -> None:
            # Of many large videos, the cache drops those first that have waited longest.
            if isinstance(future.exception(), VideoError) and file is not None and not file.exists():
                log.info("task %d: its media are fetched again", work.task.id)
                begin(partial(prepare, again=True))
            else:
                pass_on(future, work.outcome)

        def begin(preparing: Callable[[], None]) -> None:
            try:
                self._preparers[priority].submit(preparing)
            except RuntimeError:  # the pool is closed
                work.outcome.set_exception(Cancelled("the server is stopping; try again when it is back"))

        begin(prepare)
        return work

    def _predictions(self, work: Work, proposal: StoredProposal, version: str) -> list[dict[str, Any]]:
        """A proposal's tracklets as Label Studio's predictions, the best one last; empty ones are left out.

        Label Studio keeps the order, opens a task with the prediction that was stored last, and shows the
        others behind it: so the annotator meets them with the best first.
        """
        predictions = []
        for rank in reversed(range(len(proposal.tracklets))):
            result = self._regions(work, proposal, rank, name=object_name(work.task))
            if result:
                result += self._texts_of(work, proposal, rank)
                score = label_studio_score(proposal.tracklets[rank])
                predictions.append({"result": result, "score": score, "model_version": version})
        return predictions

    def _texts_of(self, work: Work, proposal: StoredProposal, rank: int) -> list[Result]:
        """What was asked for and what was found, where annotators look for it."""
        assert work.media is not None
        sides = [side for side in (work.media.frames, work.media.video) if side is not None]
        texts = [
            text
            for side in sides
            for text in (
                expression_result(side, proposal.expression),
                status_result(side, describe_proposal(proposal, rank, self._guidance)),
            )
        ]
        return [text for text in texts if text is not None]

    def _regions(
        self,
        work: Work,
        proposal: StoredProposal,
        rank: int,
        *,
        name: str,
        region_texts: Sequence[str] = (),
    ) -> list[Result]:
        """One tracklet as regions of every side of the task."""
        media = work.media
        assert media is not None
        tracklet = proposal.tracklets[rank]
        result: list[Result] = []
        if media.frames is not None:
            result += tracklet_to_frames_regions(
                tracklet,
                media.frames,
                instance_id=name,
                expression=proposal.expression,
                attributes=proposal.attributes,
            )
        if media.video is not None:
            result += tracklet_to_video_region(
                tracklet,
                media.video,
                instance_id=name,
                expression=proposal.expression,
                attributes=proposal.attributes,
                fps=media.video.fps(work.task.data),
                frames=range(0, len(tracklet.rles) * media.stride, media.stride),
                region_texts=region_texts,
            )
        return result

    # --- late predictions

    def _predict_again(self, project: Project, task: Task, version: str) -> Future[StoredProposal] | None:
        """Have a task predicted by the project's version and the prediction stored, at nobody's request."""
        steering = self._steering(project.id)
        if steering.version != version:
            return None
        work = self._begin(
            Work(task),
            project,
            parse_controls(project.label_config),
            partial(task_expression, task.data, project.extra_params, self.settings),
            steering,
            Priority.BATCH,
        )
        self._deliver(work, project, version)
        return work.outcome

    def _deliver_late(self, work: Work, project: Project, version: str) -> None:
        self.metrics.predictions.labels("late").inc()
        self._deliver(work, project, version)

    def _deliver(self, work: Work, project: Project, version: str) -> None:
        with self._lock:
            self._late[(project.id, work.task.id, version)] = work

        def push(_: Future[StoredProposal]) -> None:
            try:
                self._pushers.submit(self._push, work, project, version)
            except RuntimeError:  # the pool is closed
                log.info("task %d was not ready before the server stopped; it goes on then", work.task.id)

        work.outcome.add_done_callback(push)

    def _take_late(self, project: Project, task: Task, version: str, only: Work | None = None) -> bool:
        """Take over the delivery of a late prediction; ``False`` where there is none, or not this one.

        One that is taken by its own work is noted as pushed, so that a request that waits for it as well does
        not have it stored once more.
        """
        place = (project.id, task.id, version)
        now = time.monotonic()
        with self._lock:
            if only is not None:
                if self._late.get(place) is not only:
                    return False
                old = [known for known, at in self._pushed.items() if now - at > REMEMBERED_PUSHES]
                for known in old:
                    del self._pushed[known]
                self._pushed[place] = now
            return self._late.pop(place, None) is not None

    def _pushed_since(self, place: Place, begun: float) -> bool:
        with self._lock:
            return self._pushed.get(place, float("-inf")) >= begun

    def _push(self, work: Work, project: Project, version: str) -> None:
        """Database a late prediction through Label Studio's API, unless someone else delivered it."""
        if not self._take_late(project, work.task, version, only=work):
            return
        place = (project.id, work.task.id, version)
        try:
            try:
                self._store_predictions(work, project, version)
            except Exception as error:
                if not self._closing.is_set():
                    self._note_task_error(project, work.task, error)
                self._settle([place], error)
            else:
                self._settle([place])
        except StoreError as error:
            self._deliveries.put_off([place])
            log.error("task %d: that it has its prediction could not be noted: %s", work.task.id, error)

    def _store_predictions(self, work: Work, project: Project, version: str) -> None:
        """Database a task's predictions; those that an interrupted attempt has stored are there already.

        Raises:
            SteerSegError: There are none, or Label Studio does not take them.
        """
        predictions = self._predictions(work, work.outcome.result(), version)
        client = self._connections.client(project)
        if not predictions:
            log.info("task %d: nothing in the video matches %r", work.task.id, work.expression)
            self.metrics.predictions.labels("empty").inc()
            return
        if client is None or not self.settings.push_predictions:
            log.info("task %d is ready and waits until Label Studio asks again", work.task.id)
            return
        # They are stored in one order always, the best one last, so that their number says which are missing.
        stored = sum(
            known.get("model_version") == version for known in client.predictions.of_task(work.task.id)
        )
        if stored >= len(predictions):
            log.info("task %d has its predictions of %s already", work.task.id, version)
            return
        for prediction in predictions[stored:]:
            client.predictions.create(
                work.task.id,
                prediction["result"],
                score=prediction["score"],
                model_version=version,
            )
        self.metrics.predictions.labels("pushed").inc()
        log.info("task %d: %d late predictions pushed", work.task.id, len(predictions) - stored)

    def _settle(self, places: Iterable[Place], error: Exception | None = None) -> None:
        """Strike predictions off what is owed, unless the error is one that passes.

        Raises:
            StoreError: The database cannot be written.
        """
        passes = isinstance(error, LabelStudioUnreachableError | StoreError)
        if passes or (isinstance(error, Cancelled) and self._closing.is_set()):
            self._deliveries.put_off(places)
        else:
            self._end_owed(places)

    # --- what an earlier process owed

    def _follow_deliveries(self) -> float:
        """Take up what is owed and nobody works on: after a restart, and after Label Studio was away."""
        for delivery in self._deliveries.left():
            if self._delivery_loop.closing:
                break
            self._take_up(delivery)
        return LOOK_AGAIN

    def _take_up(self, delivery: Delivery) -> None:
        """Go on with a prediction that an earlier process was asked for.

        Raises:
            SteerSegError: The database cannot be used.
        """
        project = self._project_store.find(delivery.project_id)
        if project is None:
            self._strike(delivery)
            return
        if self._connections.client(project) is None and self.settings.push_predictions:
            return  # the token lives in memory only: the next /setup brings it again
        steering = self._steering(project.id)
        if steering.version != delivery.version:
            # A promotion came in between: what counts is the version that /setup names now.
            self._strike(delivery)
            delivery = Delivery(project.id, delivery.task, steering.version)
            self._deliveries.admit([delivery], bounded=False)
        elif not self._deliveries.take_up(delivery):
            return
        try:
            controls = parse_controls(project.label_config)
        except ConfigError as error:
            log.warning("task %d is given up: %s", delivery.task.id, error)
            self._end_owed([delivery.place])
            return
        work = self._begin(
            Work(delivery.task),
            project,
            controls,
            partial(task_expression, delivery.task.data, project.extra_params, self.settings),
            steering,
            Priority.BATCH,
        )
        self._deliver(work, project, steering.version)

    def _strike(self, delivery: Delivery) -> None:
        if self._deliveries.take_up(delivery):
            self._end_owed([delivery.place])

    def _end_owed(self, places: Iterable[Place]) -> None:
        """Owe these no longer, nor go on with what an earlier process began for them."""
        ended = set(places)
        self._proposer.release(ended)
        self._deliveries.end(ended)

    # --- interactive calls

    def _interactive(
        self, request: PredictRequest, project: Project, controls: Controls, deadline: float
    ) -> dict[str, Any]:
        self.ingestor.dispatch()  # what was submitted begins anew
        steering = self._steering(project.id)
        version = steering.version
        if len(request.tasks) != 1:
            raise RequestError(
                400,
                f"an interactive call is about one task; this one has {len(request.tasks)}",
                "Send the request as Label Studio does.",
            )
        task = request.tasks[0]
        context = request.context or ()
        side = side_of(context, (controls.frames, controls.video))
        asked = InteractiveRequest() if side is None else read_context(context, side)
        answer = Answer()
        if not asked.is_empty:
            call = Call(
                project_id=project.id,
                task=task,
                request=asked,
                context=context,
                video=video_beside(controls, task),
                version=version,
                own_expression=self._own_expression(task, project),
                deadline=deadline,
                propose=lambda text: self._begin(
                    Work(task),
                    project,
                    controls,
                    partial(check_expression, text),
                    steering,
                    Priority.INTERACTIVE,
                ),
                fetch=lambda: self._media.load(
                    task, controls, self._connections.url(project), self._connections.client(project)
                ),
            )
            try:
                if isinstance(side, FramesSide):
                    answer = self._frame_calls.answer(call, side)
                elif side is not None:
                    answer = answer_video(call, side, self._guidance)
                outcome = "late" if answer.late else "answered" if answer.result else "empty"
                self.metrics.predictions.labels(outcome).inc()
            except Exception as error:
                answer = Answer(message=self._note_task_error(project, task, error))
        result = list(answer.result)
        if side is not None and answer.message is not None:
            status = status_result(side, answer.message, interactive=True)
            result += [] if status is None else [status]
        return {
            "results": [{"result": result, "score": answer.score, "model_version": version}],
            "model_version": version,
        }

    def _own_expression(self, task: Task, project: Project) -> str | None:
        """What the task itself names; ``None`` where it names nothing usable."""
        try:
            return task_expression(task.data, project.extra_params, self.settings)
        except ExpressionError:
            return None

    # --- what is known

    def _known_project(self, project_id: int) -> Project:
        project = self._project_store.find(project_id)
        if project is None:
            raise RequestError(
                404,
                f"project {project_id} is unknown here; Label Studio introduces a project by POST /setup",
                "Open the project's Settings › Model in Label Studio, or run `steerseg-backend connect`.",
            )
        return project

    def _steering(self, project_id: int) -> Steering:
        champion = self.line.champion(project_id)
        if champion is None:
            return Steering(self._base_version, None)
        return Steering(self._refined_version(champion), self.line.ref(champion))

    def _refined_version(self, version: PromptVersion) -> str:
        return f"{self._base_version}+{version.name}"

    def _note_task_error(self, project: Project, task: Task, error: Exception) -> str:
        """Log and count what went wrong with one task; return the words for a person."""
        self.metrics.predictions.labels("failed").inc()
        if isinstance(error, SteerSegError):
            log.warning("project %d, task %d: %s: %s", project.id, task.id, type(error).__name__, error)
            return str(error)
        log.error("project %d, task %d: unexpected error", project.id, task.id, exc_info=error)
        return f"unexpected {type(error).__name__}; the server's log has the details"
