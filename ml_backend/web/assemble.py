"""Build the parts of the backend and wire them; the only place that does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ml_backend.corrections.completion import Completer
from ml_backend.corrections.ingestion import Ingestor
from ml_backend.corrections.records import Weights
from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.corrections.reviewer import Reviewer
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.interactive.calls import InteractiveCalls
from ml_backend.interactive.frame_answer import FrameCalls
from ml_backend.interactive.lifecycle import StateLifecycle
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.submitted_pages import SubmittedPages
from ml_backend.interactive.video_answer import VideoCalls
from ml_backend.jobs.proposals import Proposer
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import MEDIA_FOLDER, Loader, MediaLoader, media_limits
from ml_backend.metrics import Metrics
from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.fingerprint import model_fingerprint, model_width, preset_version
from ml_backend.models.fleet.fleet import Fleet
from ml_backend.models.messages import is_read_ahead, video_of
from ml_backend.models.workers import ModelFactory, ProcessWorker
from ml_backend.predictions.batch import BatchPredictor
from ml_backend.predictions.deliveries import Deliveries
from ml_backend.predictions.late import Deliverer
from ml_backend.predictions.media import PredictionMedia
from ml_backend.predictions.messages import DEFAULT_GUIDANCE, Guidance
from ml_backend.predictions.model_versions import ModelVersions
from ml_backend.predictions.repredict import Repredictor
from ml_backend.predictions.tasks import TaskStore
from ml_backend.predictions.work import TaskProposer
from ml_backend.proposals import ProposalFiles
from ml_backend.refinement.manager import RefinementManager
from ml_backend.refinement.next_tasks import NextTasks, OrderWriter
from ml_backend.refinement.run import RefinementSettings
from ml_backend.refinement.training_events import TrainingHandler
from ml_backend.refinement.triggers import RefinementTriggers
from ml_backend.refinement.version_store import VersionStore
from ml_backend.refinement.versions import PromptLine
from ml_backend.refinement.watcher import PromotionWatcher
from ml_backend.service import Service
from ml_backend.settings import Schedule, Settings
from ml_backend.web.assemble_fleet import build_fleet
from ml_backend.web.understands import page_of_words
from steerseg.presets import find_preset, load_preset
from steerseg.runtime.artefacts import remove_partials
from steerseg.runtime.cores import usable_cores

_ABANDONED = 600.0
"""Seconds after which a partial file was left by a process that died; the command line may be writing others."""


@dataclass(frozen=True)
class _Common:
    """The parts that most others are built on."""

    settings: Settings
    database: Database
    metrics: Metrics
    connections: Connections
    executor: ModelExecutor
    loader: Loader
    guidance: Guidance
    line: PromptLine
    versions: ModelVersions
    states: TaskStateStore


@dataclass(frozen=True)
class _Predictions:
    proposer: Proposer
    media: PredictionMedia
    task_proposer: TaskProposer
    batches: BatchPredictor
    deliverer: Deliverer
    repredictor: Repredictor


@dataclass(frozen=True)
class _Learning:
    corrections: CorrectionStore
    ingestor: Ingestor
    pages: SubmittedPages
    completer: Completer
    triggers: RefinementTriggers
    refinements: RefinementManager


def create_service(settings: Settings, term: int | None = None) -> Service:
    """Build and start the service that the settings describe.

    Args:
        settings: The settings in force.
        term: The term of this server, where its database has terms.

    Raises:
        ConfigError: The preset cannot be used.
        StoreError: The database cannot be used.
    """
    for folder in settings.data_dir.iterdir() if settings.data_dir.is_dir() else ():
        if folder.name != MEDIA_FOLDER:  # which looks after itself
            remove_partials(folder, below=True, older_than=_ABANDONED)
    executor = _build_executor(settings)
    service = build_service(
        settings,
        executor=executor,
        fleet=build_fleet(settings, executor),
        loader=MediaLoader(settings),
        base_version=preset_version(settings.preset),
        model=model_fingerprint(settings.preset),
        guidance=Guidance.of(load_preset(find_preset(settings.preset)), page_of_words(settings)),
        width=model_width(settings.preset),
        term=term,
    )
    service.start()
    return service


def build_service(
    settings: Settings,
    *,
    executor: ModelExecutor,
    loader: Loader,
    base_version: str,
    model: str,
    guidance: Guidance = DEFAULT_GUIDANCE,
    width: int | None = None,
    fleet: Fleet | None = None,
    term: int | None = None,
) -> Service:
    """Build a service from what runs its models and fetches its media; its caller starts it.

    Args:
        settings: The settings in force.
        executor: What runs the models; the service closes it.
        loader: What fetches media.
        base_version: Version of predictions by the preset's own soft prompts.
        model: Fingerprint of the preset's vision-language model, which prompt versions are made for.
        guidance: The preset's notes on its answers, for annotators.
        width: Of that model's embeddings, where it is known.
        fleet: The cluster whose workers the executor uses; the service starts and closes it.
        term: The term of this server, where its database has terms.

    Raises:
        ConfigError: The preset cannot be used.
        StoreError: The database cannot be used.
    """
    database = Database(settings.database, term=term)
    prompts = load_preset(find_preset(settings.preset)).prompts_folder
    line = PromptLine(VersionStore(database), settings.data_dir, model, prompts, width)
    common = _Common(
        settings=settings,
        database=database,
        metrics=Metrics(),
        connections=Connections(settings),
        executor=executor,
        loader=loader,
        guidance=guidance,
        line=line,
        versions=ModelVersions(line, base_version),
        states=TaskStateStore(database),
    )
    predictions = _build_predictions(common)
    learning = _build_learning(common, predictions.deliverer.loop.notify)
    service = _build_service(common, predictions, learning, fleet)
    executor.observe(common.metrics.jobs)
    common.metrics.watch(
        queue_lengths=lambda: executor.queue_lengths,
        workers=lambda: executor.numbered_statuses,
        refinements=lambda: service.refinements.counts,
        loops=service.loops,
        set_aside=lambda: service.ingestor.set_aside,
        deliveries=lambda: service.deliverer.waiting,
    )
    return service


def _build_executor(settings: Settings) -> ModelExecutor:
    """A model process for each device of the settings on this machine, fed from one queue."""
    devices = settings.devices
    on_cpu = devices.count("cpu")
    workers = [
        ProcessWorker(
            ModelFactory(
                settings.preset,
                device,
                media_limits(settings),
                settings.video_memory_bytes,
                prefix_bytes=settings.prefix_bytes,
                compiled=settings.compile_models,
                threads=max(1, usable_cores() // on_cpu) if on_cpu > 1 else None,
            ),
            stall_timeout=settings.stall_timeout,
            logging_setup=replace(
                settings.logging_setup, process=f"models-{index}" if len(devices) > 1 else "models"
            ),
            device=device,
            reads_ahead=is_read_ahead,
        )
        for index, device in enumerate(devices)
    ]
    return Executor(
        workers,
        video_of=video_of,
        warm=settings.warm,
        max_attempts=settings.max_attempts,
    )


def _build_predictions(common: _Common) -> _Predictions:
    settings, database = common.settings, common.database
    proposer = Proposer(database, ProposalFiles(settings.data_dir), common.executor, common.metrics)
    deliveries = Deliveries(database, settings.max_queue)
    # A worker's death counts as an attempt, and so does the server's: twice as many together.
    proposer.recover({delivery.key[:3] for delivery in deliveries.unclaimed()}, 2 * settings.max_attempts)
    tasks = TaskStore(database)
    media = PredictionMedia(common.loader, common.connections, tasks)
    task_proposer = TaskProposer(
        settings, media, tasks, proposer, reads_expressions=common.guidance.reads_expressions
    )
    deliverer = Deliverer(
        settings,
        deliveries=deliveries,
        task_proposer=task_proposer,
        proposer=proposer,
        versions=common.versions,
        projects=ProjectStore(database),
        connections=common.connections,
        metrics=common.metrics,
        guidance=common.guidance,
    )
    batches = BatchPredictor(
        task_proposer=task_proposer,
        deliveries=deliveries,
        deliverer=deliverer,
        versions=common.versions,
        metrics=common.metrics,
        guidance=common.guidance,
    )
    repredictor = Repredictor(database, common.connections, common.versions, deliverer)
    return _Predictions(proposer, media, task_proposer, batches, deliverer, repredictor)


@contextlib.contextmanager
def correction_refresher(
    settings: Settings, database: Database, loader: Loader
) -> Iterator[CorrectionRefresher]:
    """What brings a project's corrections up to date in a process that serves nothing.

    The models are loaded only where a correction needs them.

    Args:
        settings: The settings in force.
        database: The database.
        loader: What fetches media.
    """
    connections = Connections(settings)
    executor = _build_executor(settings.model_copy(update={"warm": False, "cluster": None}))
    states = TaskStateStore(database)
    try:
        reading = _build_reading(settings, database, loader, connections, executor, states)
        yield CorrectionRefresher(reading.ingestor, reading.completer)
    finally:
        executor.close()
        connections.close()


@dataclass(frozen=True)
class _Reading:
    triggers: RefinementTriggers
    ingestor: Ingestor
    pages: SubmittedPages
    completer: Completer


def _build_reading(
    settings: Settings,
    database: Database,
    loader: Loader,
    connections: Connections,
    executor: ModelExecutor,
    states: TaskStateStore,
    on_dispatch: Callable[[], None] = lambda: None,
) -> _Reading:
    preset = load_preset(find_preset(settings.preset))
    triggers = RefinementTriggers(database, settings.refine_after, trainable=preset.lvlm is not None)
    completer = Completer(settings, database, loader, connections, executor, listeners=[triggers.corrected])
    pages = SubmittedPages(database, states, connections)
    ingestor = Ingestor(
        settings,
        database,
        connections,
        completer.notify,
        on_dispatch=on_dispatch,
        complete=pages.complete,
        handlers=[
            StateLifecycle(states, pages, Deliveries(database, settings.max_queue).promise),
            TrainingHandler(ProjectStore(database), triggers.request),
        ],
    )
    return _Reading(triggers, ingestor, pages, completer)


def _build_learning(common: _Common, on_dispatch: Callable[[], None]) -> _Learning:
    settings, database, connections = common.settings, common.database, common.connections
    reading = _build_reading(
        settings, database, common.loader, connections, common.executor, common.states, on_dispatch
    )
    refinements = RefinementManager(
        _refinement_settings(settings, common.versions.base),
        triggers=reading.triggers,
        schedule=_schedule(settings),
        database=database,
        line=common.line,
        media=common.loader,
        connections=connections,
        executor=common.executor,
        refresh=CorrectionRefresher(reading.ingestor, reading.completer).refresh,
    )
    return _Learning(
        CorrectionStore(database),
        reading.ingestor,
        reading.pages,
        reading.completer,
        reading.triggers,
        refinements,
    )


def _schedule(settings: Settings) -> Schedule | None:
    """When projects are refined by the clock; never without a language model, which soft prompts are trained for."""
    if settings.refine_schedule is None or load_preset(find_preset(settings.preset)).lvlm is None:
        return None
    return Schedule.parse(settings.refine_schedule)


def _refinement_settings(settings: Settings, base_version: str) -> RefinementSettings:
    preset = load_preset(find_preset(settings.preset))
    return RefinementSettings(
        recipe=preset.recipe,
        replay=preset.replay,
        base_version=base_version,
        data_dir=settings.data_dir,
        feature_bytes=settings.refine_cache_bytes,
        confidence=settings.propagation_confidence,
        weights=Weights.from_settings(settings),
        lexicon=preset.load_lexicon(),
        preset_prompts=preset.prompts_folder,
        trainable=preset.lvlm is not None,
    )


def _build_service(
    common: _Common, predictions: _Predictions, learning: _Learning, fleet: Fleet | None
) -> Service:
    steering_jobs = SteeringJobs(common.database, common.executor, common.metrics)
    calls = InteractiveCalls(
        common.settings,
        frame_calls=FrameCalls(common.states, steering_jobs, common.guidance),
        video_calls=VideoCalls(steering_jobs, common.guidance),
        task_proposer=predictions.task_proposer,
        media=predictions.media,
        versions=common.versions,
        ingestor=learning.ingestor,
        states=common.states,
        pages=learning.pages,
        promise=predictions.deliverer.promise,
        metrics=common.metrics,
    )
    next_tasks = NextTasks(common.database)
    return Service(
        common.settings,
        metrics=common.metrics,
        guidance=common.guidance,
        database=common.database,
        connections=common.connections,
        executor=common.executor,
        fleet=fleet,
        line=common.line,
        versions=common.versions,
        media=predictions.media,
        proposer=predictions.proposer,
        task_proposer=predictions.task_proposer,
        steering_jobs=steering_jobs,
        batches=predictions.batches,
        calls=calls,
        deliverer=predictions.deliverer,
        repredictor=predictions.repredictor,
        corrections=learning.corrections,
        ingestor=learning.ingestor,
        completer=learning.completer,
        triggers=learning.triggers,
        refinements=learning.refinements,
        next_tasks=next_tasks,
        order_writer=OrderWriter(common.database, common.connections, next_tasks),
        reviewer=Reviewer(common.database, common.connections),
        watcher=PromotionWatcher(common.settings, common.database, common.line, common.versions.base),
    )
