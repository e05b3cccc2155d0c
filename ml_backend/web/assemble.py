"""Build the parts of the backend and wire them; the only place that does."""

from __future__ import annotations

from ml_backend.database.database import Database
from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.metrics import Metrics
from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.fingerprint import model_fingerprint, preset_version
from ml_backend.models.workers import ModelFactory
from ml_backend.predictions.messages import Guidance
from ml_backend.service import Service
from ml_backend.settings import Settings
from steerseg.presets import find_preset, load_preset
from steerseg.video import VideoLimits


def create_service(settings: Settings) -> Service:
    """Build the service that the settings describe.

    Raises:
        ConfigError: The preset cannot be used.
        StoreError: The database cannot be used.
    """
    base_version = preset_version(settings.preset)
    database = Database(settings.database)
    limits = VideoLimits(max_bytes=settings.max_download_bytes)
    executor: ModelExecutor = Executor.local(
        [
            ModelFactory(
                settings.preset,
                settings.device,
                limits,
                settings.video_memory_bytes,
                prefix_bytes=settings.prefix_bytes,
                compiled=settings.compile_models,
            )
        ],
        warm=settings.warm,
        max_attempts=settings.max_attempts,
        stall_timeout=settings.stall_timeout,
        log_level=settings.log_level,
    )
    service = Service(
        settings,
        database=database,
        executor=executor,
        media=MediaLoader(settings),
        metrics=Metrics(),
        base_version=base_version,
        model=model_fingerprint(settings.preset),
        guidance=Guidance.of(load_preset(find_preset(settings.preset))),
    )
    service.start()
    return service
