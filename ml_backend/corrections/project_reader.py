"""The annotations of a whole project, read through Label Studio's API, also those of lost webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ml_backend.corrections.annotation_store import AnnotationState, ListedAnnotation
from ml_backend.corrections.annotations import read_time
from ml_backend.corrections.event_reader import (
    AnnotationReader,
    annotation_digest,
    content_digest,
    describe_unreadable,
    name_of,
    read_effort,
)
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.errors import LabelStudioError, LabelStudioNotFoundError


@dataclass
class ProjectContent:
    """What a project has.

    Attributes:
        present: Every annotation by its number.
        changed: Those that differ from what was known.
        unreadable: Why an annotation could not be read, by its number as text.
        listed: What the project's list says of each annotation.
        label_config: The project's labelling configuration.
        title: The project's title.
    """

    label_config: str
    title: str = ""
    present: set[int] = field(default_factory=set)
    changed: list[AnnotationState] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    listed: list[ListedAnnotation] = field(default_factory=list)


class ProjectReader:
    """Reads one project once.

    Args:
        client: Its Label Studio.
        project_id: The project.
        known: Time and digest of every annotation that is known; those that are as they were are not read.
        reader: Reads annotations.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        project_id: int,
        known: Mapping[int, tuple[datetime | None, str]],
        reader: AnnotationReader,
    ) -> None:
        self._client = client
        self._project_id = project_id
        self._known = known
        self._reader = reader

    def read(self) -> ProjectContent:
        """Read every annotation, also those that Label Studio does not list.

        Raises:
            LabelStudioError: Label Studio cannot be asked.
        """
        content = self._described()
        tasks: dict[int, Mapping[str, Any]] = {}
        for task in self._client.tasks.of_project(self._project_id):
            number = task.get("id")
            if not isinstance(number, int):
                content.unreadable["of a task without number"] = (
                    "Label Studio lists a task without its number"
                )
                continue
            tasks[number] = task
            if task.get("total_annotations") != 0:
                for annotation in self._client.annotations.of_task(number):
                    self._take_in(content, annotation, task)
        # Not listed: skipped, or deleted, or made while we were reading.
        for number in sorted(self._known.keys() - content.present):
            try:
                annotation = self._client.annotations.get(number)
            except LabelStudioNotFoundError:
                continue
            of = annotation.get("task")
            if isinstance(of, int) and of in tasks:
                self._take_in(content, annotation, tasks[of])
        return content

    def _described(self) -> ProjectContent:
        described = self._client.projects.get(self._project_id)
        label_config, title = described.get("label_config"), described.get("title")
        if not isinstance(label_config, str):
            raise LabelStudioError(
                f"{self._client.url} does not say the labelling configuration of project {self._project_id}"
            )
        return ProjectContent(label_config, title if isinstance(title, str) else "")

    def _take_in(
        self,
        content: ProjectContent,
        annotation: Mapping[str, Any],
        task: Mapping[str, Any],
    ) -> None:
        """Add an annotation to what the project has; read it if it is not as it is known.

        Whatever is wrong with it is noted, so that the project's other annotations are read.
        """
        name = name_of(annotation, f"of task {task['id']}")
        number = annotation.get("id") if isinstance(annotation, Mapping) else None
        if not isinstance(number, int):
            content.unreadable[name] = "Label Studio lists it without its number"
            return
        content.present.add(number)
        listed = ListedAnnotation(
            id=number,
            task_id=task["id"],
            updated_at=read_time(annotation.get("updated_at")),
            cancelled=bool(annotation.get("was_cancelled")),
            ground_truth=bool(annotation.get("ground_truth")),
            content="",
            effort=read_effort(annotation),
        )
        try:
            listed = replace(listed, content=content_digest(annotation))
            state = listed.updated_at, annotation_digest(annotation, task.get("data") or {})
            if self._known.get(number) != state:
                content.changed.append(
                    self._reader.read_state(
                        annotation, project_id=self._project_id, task=task, label_config=content.label_config
                    )
                )
        except Exception as error:
            content.unreadable[name] = describe_unreadable(error, name)
        content.listed.append(listed)
