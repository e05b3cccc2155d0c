"""Build the part of the backend that works on a cluster."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial

from ml_backend.label_studio.task_media import media_limits
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.fingerprint import preset_version
from ml_backend.models.fleet.actor import ActorSetup
from ml_backend.models.fleet.fleet import Fleet
from ml_backend.models.fleet.messages import ClusterPlan, MediaSource, WorkerPlace
from ml_backend.models.fleet.packing import needs_data_folder, pack
from ml_backend.models.fleet.ray_worker import Line, RayWorker
from ml_backend.models.fleet.shared_media import SharedMedia
from ml_backend.models.messages import ModelAnswer, ModelRequest
from ml_backend.models.workers import ModelFactory
from ml_backend.settings import Settings
from ml_backend.web.understands import own_address
from steerseg.runtime.artefacts import write_bytes

_SIGN = "cluster-sign"
"""File below the data folder by which a host shows that it sees the folder."""

_MOST_SECONDS_PER_FILE = 1800.0


def build_fleet(settings: Settings, executor: ModelExecutor) -> Fleet | None:
    """The cluster of the settings, whose workers the executor uses; its caller starts it. ``None`` for none.

    Raises:
        ArtefactError: The data folder cannot be written.
        ConfigError: The preset cannot be used.
    """
    if settings.cluster is None:
        return None
    word = secrets.token_hex(16)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    sign = settings.data_dir.resolve() / _SIGN
    write_bytes(sign, word.encode())
    media = SharedMedia(settings.cluster_media or own_address(settings))
    plan = ClusterPlan(
        address=settings.cluster,
        worker_cpus=settings.cluster_worker_cpus,
        version=preset_version(settings.preset),
        preset=settings.preset,
        shared=sign,
        shared_word=word,
    )
    return Fleet(
        plan,
        executor,
        partial(_make_worker, settings, media),
        media=media,
        logging_setup=replace(settings.logging_setup, process="cluster"),
    )


def _make_worker(
    settings: Settings, media: SharedMedia, line: Line, place: WorkerPlace
) -> RayWorker[ModelRequest, ModelAnswer]:
    limits = media_limits(settings)
    source = MediaSource(
        location=media.location,
        token=media.token,
        cache=settings.cluster_cache_dir,
        cache_bytes=settings.media_cache_bytes,
        max_bytes=settings.max_download_bytes,
        timeout=_MOST_SECONDS_PER_FILE,
    )
    factory = ModelFactory(
        settings.preset,
        place.device,
        limits,
        settings.video_memory_bytes,
        prefix_bytes=settings.prefix_bytes,
        compiled=settings.compile_models,
        threads=place.cpus or None,
    )
    setup = ActorSetup(
        factory,
        source,
        settings.stall_timeout,
        replace(settings.logging_setup, process=f"models on {place.host}"),
    )
    return RayWorker(
        line,
        place,
        setup,
        pack=partial(pack, shared=media),
        accepts=lambda request: place.sees_data or not needs_data_folder(request),
    )
