"""The media of tasks, fetched through the connection of their project."""

from __future__ import annotations

from ml_backend.corrections.records import Correction
from ml_backend.database.projects import Project
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Loader, Media
from ml_backend.predictions.tasks import TaskStore
from steerseg.errors import VideoError


class PredictionMedia:
    """Fetches media, and fetches them again where the cache no longer has them. Safe to share between threads.

    Args:
        loader: What fetches media.
        connections: Connections to Label Studio.
        tasks: The data of tasks that were predicted.
    """

    def __init__(self, loader: Loader, connections: Connections, tasks: TaskStore) -> None:
        self._loader = loader
        self._connections = connections
        self._tasks = tasks

    def load(self, project: Project, task: Task, controls: Controls) -> Media:
        """The media of a task on this machine.

        Raises:
            VideoError: They cannot be had, or are no usable video.
            LabelStudioError: The address or the token of Label Studio cannot be one.
        """
        return self._loader.load(task, controls, self._connections.host(project))

    def load_predicted(self, project: Project, task_id: int, digest: str) -> Media:
        """The media of a task that was predicted.

        Args:
            project: The project.
            task_id: The task.
            digest: Digest of the media that were predicted.

        Raises:
            VideoError: The task is not known any more, or its media are gone or were replaced.
            ConfigError: The labelling configuration cannot hold proposals.
        """
        data = self._tasks.data(project.id, task_id)
        if data is None:
            raise VideoError(
                f"the data of task {task_id} was not kept; predict the task again to have it kept"
            )
        media = self.load(project, Task(task_id, data), parse_controls(project.label_config))
        if media.digest != digest:
            raise VideoError(f"the media of task {task_id} were replaced since this was proposed")
        return media

    def load_corrected(self, project: Project, correction: Correction) -> Media:
        """The media of a correction.

        Args:
            project: The project.
            correction: The correction.

        Raises:
            VideoError: The media are gone or were replaced.
            ConfigError: The labelling configuration cannot hold proposals.
        """
        task = Task(correction.task_id, correction.task_data)
        media = self.load(project, task, parse_controls(correction.label_config))
        if media.digest != correction.media_digest:
            raise VideoError(f"the media of task {task.id} were replaced since this was corrected")
        return media
