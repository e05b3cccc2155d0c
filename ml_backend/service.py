"""The backend's requests, each as one method that calls the rooms below. Knows nothing of Flask or HTTP transport."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from ml_backend.answers import FleetReport, Health, Overview, ProjectSummary, Versions
from ml_backend.background import BackgroundLoop
from ml_backend.corrections.completion import Completer
from ml_backend.corrections.ingestion import Ingestor
from ml_backend.corrections.report import CorrectionsReport
from ml_backend.corrections.reviewer import Reviewer
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.events import EventStore
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.interactive.calls import CallRequest, InteractiveAnswer, InteractiveCalls
from ml_backend.jobs.listing import JobList, count_jobs, list_jobs, read_name
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.proposals import Proposer
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import Media
from ml_backend.metrics import Metrics
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.fleet.fleet import Fleet
from ml_backend.predictions.batch import BatchAnswer, BatchPredictor, BatchRequest
from ml_backend.predictions.late import Deliverer
from ml_backend.predictions.media import PredictionMedia
from ml_backend.predictions.messages import Guidance
from ml_backend.predictions.model_versions import ModelVersions
from ml_backend.predictions.repredict import Repredictor
from ml_backend.predictions.work import TaskProposer
from ml_backend.refinement.manager import RefinementManager
from ml_backend.refinement.next_tasks import NextTasks, OrderWriter
from ml_backend.refinement.status import RefinementStatus
from ml_backend.refinement.store import Refinement
from ml_backend.refinement.triggers import RefinementTriggers
from ml_backend.refinement.versions import PromptLine
from ml_backend.refinement.watcher import PromotionWatcher
from ml_backend.requests import (
    RequestError,
    SetupRequest,
    parse_predict,
    parse_project_id,
    parse_setup,
    parse_webhook,
)
from ml_backend.settings import Settings
from steerseg.words.glossary import load_english

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

    It is given its parts; :func:`ml_backend.web.assemble.build_service` builds and wires them.

    Args:
        settings: The settings in force.
        metrics: What counts.
        guidance: The preset's notes on its answers.
        database: The database.
        connections: Connections to Label Studio.
        executor: What runs the models.
        fleet: The cluster whose workers it uses; ``None`` for this machine alone.
        line: The prompt versions.
        versions: The versions of predictions.
        media: What fetches the media of tasks.
        proposer: Has proposals made.
        task_proposer: Has the proposals of tasks made.
        steering_jobs: Has clicks, boxes and strokes answered.
        batches: Predicts batches.
        calls: Answers interactive calls.
        deliverer: Stores late predictions.
        repredictor: Predicts tasks anew after a promotion.
        corrections: The corrections.
        ingestor: Reads events and annotations.
        completer: Completes corrections.
        triggers: Asks for refinements.
        refinements: Carries refinements on.
        watcher: Watches promoted versions in use.
        next_tasks: Computes labelling orders.
        order_writer: Writes them into Label Studio.
        reviewer: Carries reviews of annotations out.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        guidance: Guidance,
        database: Database,
        connections: Connections,
        executor: ModelExecutor,
        fleet: Fleet | None,
        line: PromptLine,
        versions: ModelVersions,
        media: PredictionMedia,
        proposer: Proposer,
        task_proposer: TaskProposer,
        steering_jobs: SteeringJobs,
        batches: BatchPredictor,
        calls: InteractiveCalls,
        deliverer: Deliverer,
        repredictor: Repredictor,
        corrections: CorrectionStore,
        ingestor: Ingestor,
        completer: Completer,
        triggers: RefinementTriggers,
        refinements: RefinementManager,
        watcher: PromotionWatcher,
        next_tasks: NextTasks,
        order_writer: OrderWriter,
        reviewer: Reviewer,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.guidance = guidance
        self.database = database
        self.connections = connections
        self.executor = executor
        self.fleet = fleet
        self.line = line
        self.media = media
        self.corrections = corrections
        self.ingestor = ingestor
        self.triggers = triggers
        self.refinements = refinements
        self.watcher = watcher
        self.next_tasks = next_tasks
        self.order_writer = order_writer
        self.reviewer = reviewer
        self.proposer = proposer
        self.deliverer = deliverer
        self._versions = versions
        self._task_proposer = task_proposer
        self._steering_jobs = steering_jobs
        self._batches = batches
        self._calls = calls
        self._repredictor = repredictor
        self._completer = completer
        self._projects = ProjectStore(database)
        self._events = EventStore(database)
        self._proposals = ProposalStore(database)

    @property
    def loops(self) -> tuple[BackgroundLoop, ...]:
        """The background loops."""
        return (
            *self.ingestor.loops,
            self._completer.loop,
            self.refinements.loop,
            self.watcher.loop,
            self.order_writer.loop,
            self.deliverer.loop,
            self._repredictor.loop,
        )

    def start(self) -> None:
        """Begin the work that no request asks for: from annotations to corrections to better prompts."""
        load_english()
        if self.fleet is not None:
            self.fleet.start()
        self.ingestor.start()
        self._completer.start()
        self.refinements.start()
        self.watcher.start()
        self.order_writer.start()
        self.deliverer.loop.start()
        if self.settings.repredict and self.settings.push_predictions:
            self._repredictor.start()

    def close(self) -> None:
        """Stop the model processes; open deliveries go on with the next start."""
        self.deliverer.loop.stop()
        self.proposer.stop()
        self.ingestor.close()
        self.executor.close()
        if self.fleet is not None:
            self.fleet.close()
        self._completer.close()
        self.refinements.close()
        self.watcher.close()
        self.order_writer.close()
        self._repredictor.close()
        self.deliverer.close()
        self._task_proposer.close()
        self.connections.close()
        self.database.close()

    # --- Label Studio's requests

    def setup(self, body: object) -> str:
        """Learn a project and return the version of its predictions.

        Raises:
            RequestError: The body is unusable.
            UntrustedAddressError: It names an address of Label Studio that needs credentials.
            ConfigError: The labelling configuration cannot hold proposals.
            StoreError: The database cannot be used.
        """
        request = parse_setup(body)
        project = self._note_project(request)
        if request.access_token is not None:
            self.connections.learn(project, request.access_token)
            self.deliverer.try_again(request.project_id)
        self.ingestor.introduce(request.project_id)
        # After it was noted, so that a later /predict of the project reports the same fault.
        parse_controls(request.label_config)
        return self._versions.current(request.project_id).name

    def _note_project(self, request: SetupRequest) -> Project:
        """Save a project where something changed; Label Studio introduces it over and over."""
        known = self._projects.find(request.project_id)
        if request.hostname is not None:
            self.connections.check_address(request.hostname, known)
        hostname = request.hostname or (known.hostname if known else "")
        extra_params = request.extra_params
        if extra_params is None:
            extra_params = known.extra_params if known else {}
        described = (request.uid, request.label_config, hostname, extra_params)
        if (
            known is not None
            and described == (known.uid, known.label_config, known.hostname, known.extra_params)
            and (datetime.now(UTC) - known.last_seen).total_seconds() <= _SEEN_AGAIN
        ):
            return known
        return self._projects.save(
            request.project_id,
            uid=request.uid,
            label_config=request.label_config,
            hostname=hostname,
            extra_params=extra_params,
        )

    def predict(self, body: object) -> BatchAnswer | InteractiveAnswer:
        """Predict a batch of tasks, or answer an annotator's interactive call.

        Raises:
            RequestError: The body is unusable or the project unknown.
            ConfigError: The labelling configuration cannot hold proposals.
            QueueFullError: Too many tasks wait for their predictions.
            StoreError: The database cannot be used.
        """
        deadline = time.monotonic() + self.settings.predict_timeout
        request = parse_predict(body)
        project = self._known_project(request.project_id)
        controls = parse_controls(request.label_config)
        if request.context is None:
            batch = BatchRequest(project, controls, request.tasks, deadline, request.deliver_late)
            return self._batches.answer(batch)
        if len(request.tasks) != 1:
            raise RequestError(
                400,
                f"an interactive call is about one task; this one has {len(request.tasks)}",
                "Send the request as Label Studio does.",
            )
        return self._calls.answer(CallRequest(project, controls, request.tasks[0], request.context, deadline))

    def webhook(self, body: object) -> int:
        """Commit an event and return its number; it is on disk when this returns.

        Raises:
            RequestError: The body is unusable.
            StoreError: It could not be committed.
        """
        event = parse_webhook(body)
        number = self._events.add(event.action, event.project_id, event.payload)
        # Only known names become labels: anyone may invent an action, and every label costs memory.
        self.metrics.webhooks.labels(event.action if event.action in _ACTIONS else "other").inc()
        self.ingestor.notify()
        return number

    def versions(self, project: str | None) -> Versions:
        """The versions of one project's predictions; the preset's where none is named.

        Raises:
            RequestError: The project is unknown.
            StoreError: The database cannot be read.
        """
        if project is None:
            return Versions((self._versions.base,), self._versions.base)
        known = self._known_project(parse_project_id(project))
        return Versions(self._versions.names(known.id), self._versions.current(known.id).name)

    # --- corrections and refinements

    def project_corrections(self, project: str) -> CorrectionsReport:
        """How a project's corrections stand, and which are set aside for which reason.

        Raises:
            RequestError: The project is unknown.
            StoreError: The database cannot be read.
        """
        known = self._known_project(parse_project_id(project))
        set_aside = self.corrections.list_set_aside(known.id)
        return CorrectionsReport.of(self.corrections.counts(known.id), set_aside)

    def refine(self, project: str) -> Refinement:
        """Ask for a refinement of a project; return the one that takes the request in.

        Raises:
            RequestError: The project is unknown.
            StoreError: The database cannot be used.
        """
        return self.refinements.request(self._known_project(parse_project_id(project)).id, "a request")

    def refinement(self, project: str) -> RefinementStatus:
        """How a project's refinements stand.

        Raises:
            RequestError: The project is unknown.
            StoreError: The database cannot be read.
        """
        return self.refinements.status(self._known_project(parse_project_id(project)).id)

    # --- jobs, and how the server stands

    def health(self) -> Health:
        """Whether the server is up, and how models and loops stand. Touches neither models nor database."""
        return Health(
            model_version=self._versions.base,
            workers=tuple(self.executor.statuses),
            queued=self.executor.queue_length,
            loops=tuple(loop.status for loop in self.loops if loop.started),
            set_aside=self.ingestor.set_aside,
            cluster=None if self.fleet is None else self.fleet.status,
            database=self.database.kind,
            database_problem=self.database.problem,
        )

    def fleet_report(self) -> FleetReport:
        """The workers with their work, and the cluster that they are of."""
        return FleetReport(
            workers=tuple(self.executor.activities),
            waiting={priority.name.lower(): count for priority, count in self.executor.queue_lengths.items()},
            cluster=None if self.fleet is None else self.fleet.status,
        )

    def overview(self) -> Overview:
        """The start page.

        Raises:
            StoreError: The database cannot be read.
        """
        return Overview(
            version=self._versions.base,
            workers=tuple(self.executor.statuses),
            job_counts=count_jobs(self.database),
            proposals=self._proposals.count(),
            events=self._events.count(),
            projects=tuple(self._summary(project) for project in self._projects.all()),
            set_aside=tuple(self.corrections.list_set_aside(limit=20)),
            refinements=tuple(self.refinements.latest()),
            jobs=tuple(list_jobs(self.database, 8)),
        )

    def _summary(self, project: Project) -> ProjectSummary:
        version = self._versions.current(project.id).name
        return ProjectSummary(project, self.corrections.counts(project.id), version)

    def jobs(self, limit: int = 100) -> JobList:
        """Jobs and refinements, and how many are in each state.

        Raises:
            StoreError: The database cannot be read.
        """
        return JobList(count_jobs(self.database), tuple(list_jobs(self.database, limit)))

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
        if refinement:
            ended = self.refinements.cancel(number)
        else:
            parts = (self.proposer, self._steering_jobs, self._completer)
            ended = any(part.cancel(number) for part in parts)
        if not ended:
            raise RequestError(
                409,
                f"job {name} cannot be cancelled: it has ended, or another process has it",
                "GET /jobs lists the jobs that are under way.",
            )
        log.info("job %s is cancelled on request", name)

    def task_media(self, project_id: int, task_id: int, digest: str) -> Media:
        """The media of a task that was predicted; see :meth:`PredictionMedia.load_predicted`.

        Raises:
            RequestError: The project is unknown.
            VideoError: The media cannot be had any more.
            ConfigError: The labelling configuration cannot hold proposals.
        """
        return self.media.load_predicted(self._known_project(project_id), task_id, digest)

    def _known_project(self, project_id: int) -> Project:
        project = self._projects.find(project_id)
        if project is None:
            raise RequestError(
                404,
                f"project {project_id} is unknown here; Label Studio introduces a project by POST /setup",
                "Open the project's Settings › Model in Label Studio, or run `steerseg-backend connect`.",
            )
        return project
