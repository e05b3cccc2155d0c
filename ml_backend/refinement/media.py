"""The media of a refinement's corrections: fetched again, and remembered by the refinement."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import RootModel

from ml_backend.database.projects import ProjectStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.errors import LabelStudioError
from ml_backend.label_studio.media_access import (
    MediaError,
    MediaRefusedError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Loader
from ml_backend.models.examples import CorrectionExample
from ml_backend.models.messages import MediaFile
from steerseg.errors import ConfigError, SteerSegError, VideoError
from steerseg.runtime.artefacts import write_json

log = logging.getLogger(__name__)


class MediaPendingError(SteerSegError):
    """Media cannot be had now, but perhaps later."""


class MediaList(RootModel[dict[str, tuple[Path, float | None]]]):
    """The file that lists media on this machine: by digest, the path, and the frames per second of a folder."""


class RefinementMedia:
    """Finds the media of examples on this machine.

    Args:
        project_id: Number of the project.
        path: The list of files that are here already; it outlasts a kill.
        projects: The projects.
        loader: Fetches media.
        connections: Connections to Label Studio.
        patient: Whether media that cannot be had at the moment are waited for; else they count as gone.
    """

    def __init__(
        self,
        project_id: int,
        path: Path,
        *,
        projects: ProjectStore,
        loader: Loader,
        connections: Connections,
        patient: bool,
    ) -> None:
        self._project_id = project_id
        self._path = path
        self._projects = projects
        self._loader = loader
        self._connections = connections
        self._patient = patient
        self._files: dict[str, MediaFile] = {}

    def open(self) -> None:
        """Read the list that an earlier process has left, where there is one."""
        self._files = {}
        if not self._path.is_file():
            return
        try:
            listed = MediaList.model_validate_json(self._path.read_bytes()).root
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read and is made anew: %s", self._path, error)
            return
        self._files = {digest: MediaFile(file, fps) for digest, (file, fps) in listed.items()}

    def file(self, example: CorrectionExample) -> MediaFile:
        """An example's media on this machine.

        Raises:
            MediaPendingError: They cannot be had now.
            VideoError: They are gone, or others than were corrected.
            ArtefactError: The disk is full.
        """
        known = self._files.get(example.video)
        if known is not None and known.path.exists():
            return known
        self._files[example.video] = loaded = self._load(example)
        listed = MediaList({digest: (file.path, file.fps) for digest, file in self._files.items()})
        write_json(self._path, listed.model_dump(mode="json"))
        return loaded

    def _load(self, example: CorrectionExample) -> MediaFile:
        task = Task(example.task.task_id, example.task.data)
        project = self._projects.find(self._project_id)
        try:
            controls = parse_controls(example.task.label_config)
            host = None if project is None else self._connections.host(project)
            media = self._loader.load(task, controls, host)
        except (MediaRefusedError, MediaTooLargeError):
            raise
        except ConfigError as error:
            raise VideoError(str(error)) from error
        except (MediaError, LabelStudioError) as error:
            gone = isinstance(error, MediaUnavailableError) and error.status in (404, 410)
            if gone or not self._patient:
                raise VideoError(str(error)) from error
            raise MediaPendingError(
                f"the media of task {task.id} cannot be had now, it is tried again: {error}"
            ) from error
        if media.digest != example.video:
            raise VideoError("the media of the task are not those that were corrected: they were replaced")
        return MediaFile(media.path, media.fps)
