"""What Label Studio's events and annotations say, read without looking at media."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.corrections.annotation_store import AnnotationState, Changes
from ml_backend.corrections.annotations import read_annotation, read_time
from ml_backend.corrections.efforts import Effort
from ml_backend.corrections.records import Decision
from ml_backend.database.errors import describe_error, is_of_value
from ml_backend.database.events import StoredEvent
from ml_backend.label_studio.task import own_data
from steerseg.errors import SteerSegError

log = logging.getLogger(__name__)

_WRITTEN = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_UPDATED"}
)
_DELETED = frozenset({"ANNOTATION_DELETED", "ANNOTATIONS_DELETED"})
_TASKS_DELETED = frozenset({"TASK_DELETED", "TASKS_DELETED"})

_CENTURY = 3_155_760_000.0  # seconds

Fallback = Callable[[int | None, Mapping[str, Any]], str | None]
"""The expression of a task by its project and data, for where an annotation names none."""

Complete = Callable[[Mapping[str, Any], int, int, str], Mapping[str, Any]]
"""An annotation with what Label Studio has left out, from it, its project, its task and the configuration."""


@dataclass(frozen=True)
class EventContent:
    """What an event says.

    Attributes:
        changes: What follows from it.
        error: Why nothing, or not all, could be made of it.
        incomplete: Whether it left something out that the project's API has.
    """

    changes: Changes
    error: str | None = None
    incomplete: bool = False


class IncompleteError(SteerSegError):
    """An event does not hold all that is needed."""


def unchanged(
    annotation: Mapping[str, Any], project_id: int, task_id: int, label_config: str
) -> Mapping[str, Any]:
    """Nothing was left out."""
    return annotation


class AnnotationReader:
    """Reads annotations, from events or from the API, as what they decide.

    It touches neither database nor network, unless the functions that it is given do.

    Args:
        fallback: The expression of a task whose annotation names none.
        complete: Completes annotations.
    """

    def __init__(self, fallback: Fallback, complete: Complete = unchanged) -> None:
        self._fallback = fallback
        self._complete = complete

    def read_event(self, event: StoredEvent, label_config: str | None = None) -> EventContent:
        """Read an event. Plural and singular actions may hold one object or a list of them.

        Args:
            event: The event.
            label_config: The project's labelling configuration as it is known, for events without one.

        Raises:
            StoreError: An annotation could not be completed, since the database cannot be read.
        """
        payload = event.payload
        if event.action in _DELETED:
            return EventContent(Changes(deleted_annotations=_numbers(payload, "annotation", "annotations")))
        if event.action in _TASKS_DELETED:
            return EventContent(Changes(deleted_tasks=_numbers(payload, "task", "tasks")))
        if event.action in _WRITTEN:
            return self._read_written(event, label_config)
        return EventContent(Changes())

    def _read_written(self, event: StoredEvent, label_config: str | None) -> EventContent:
        annotations = list(_objects(event.payload, "annotation", "annotations"))
        tasks = {task["id"]: task for task in _objects(event.payload, "task", "tasks") if "id" in task}
        project = event.payload.get("project")
        given = project.get("label_config") if isinstance(project, Mapping) else None
        states: list[AnnotationState] = []
        unreadable: dict[str, str] = {}
        errors: list[str] = [] if annotations else ["the event holds no annotation"]
        incomplete = not annotations
        for annotation in annotations:
            task = annotation.get("task")
            task_id = task.get("id") if isinstance(task, Mapping) else task
            project_id = annotation.get("project")
            try:
                states.append(
                    self.read_state(
                        annotation,
                        project_id=project_id if isinstance(project_id, int) else event.project_id,
                        task=task if isinstance(task, Mapping) and "data" in task else tasks.get(task_id),
                        label_config=given if isinstance(given, str) else label_config,
                    )
                )
            except IncompleteError as error:
                incomplete = True
                errors.append(str(error))
            except Exception as error:
                number = name_of(annotation, f"of event {event.id}")
                unreadable[number] = describe_unreadable(error, number)
                errors.append(f"annotation {number}: {unreadable[number]}")
        changes = Changes(states=tuple(states), unreadable=unreadable)
        return EventContent(changes, "; ".join(errors) or None, incomplete)

    def read_state(
        self,
        annotation: Mapping[str, Any],
        *,
        project_id: int | None,
        task: Mapping[str, Any] | None,
        label_config: str | None,
    ) -> AnnotationState:
        """Read one annotation.

        Args:
            annotation: As Label Studio has it.
            project_id: Its project.
            task: Its task, with the data.
            label_config: The project's labelling configuration.

        Raises:
            SteerSegError: It, its task or the labelling configuration is missing or cannot be read.
        """
        number, task_id = annotation.get("id"), None if task is None else task.get("id")
        task_data = {} if task is None else task.get("data")
        if task_id is None and isinstance(annotation.get("task"), int):
            task_id = annotation["task"]
        cancelled = bool(annotation.get("was_cancelled"))
        if not isinstance(number, int) or not isinstance(task_id, int) or project_id is None:
            raise IncompleteError("an annotation came without its number, its task or its project")
        if not cancelled and not (task_data and isinstance(task_data, dict) and label_config is not None):
            raise IncompleteError(f"annotation {number} came without the data or configuration of its task")
        if not cancelled and not isinstance(annotation.get("result"), list):
            raise IncompleteError(f"annotation {number} came without its result")
        assert isinstance(task_data, dict)
        task_data = own_data(task_data)
        decisions: tuple[Decision, ...] = ()
        completed = annotation
        if not cancelled:
            completed = self._complete(annotation, project_id, task_id, label_config or "")
            decisions = read_annotation(
                completed,
                task_data=task_data,
                label_config=label_config or "",
                expression=self._fallback(project_id, task_data),
            )
        return AnnotationState(
            id=number,
            project_id=project_id,
            task_id=task_id,
            updated_at=read_time(annotation.get("updated_at")),
            digest=annotation_digest(_as_awaited(annotation, completed), task_data),
            cancelled=cancelled,
            decisions=decisions,
            ground_truth=bool(annotation.get("ground_truth")),
            content="" if cancelled else content_digest(completed),
            effort=read_effort(annotation),
            former_digest=annotation_digest(completed, task_data),
        )


def _as_awaited(annotation: Mapping[str, Any], completed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotation as it is, unless Label Studio still is to get what it shows.

    The next reading of the project compares the digest of this. Origins that completion restores are never there.
    """
    return annotation if content_digest(annotation) == content_digest(completed) else completed


def read_effort(annotation: Mapping[str, Any]) -> Effort:
    """Who completed an annotation, and how long it took; what is not said, or cannot be, is not known."""
    by = annotation.get("completed_by")
    by = by.get("id") if isinstance(by, Mapping) else by
    annotator = by if isinstance(by, int) and not isinstance(by, bool) and 0 < by < 2**63 else None
    seconds = annotation.get("lead_time")
    lead_time = None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < _CENTURY:
        lead_time = float(seconds)
    created_at = read_time(annotation.get("created_at"))
    # Label Studio writes "Ann Example ann@example.org, 3": of it the name, or the address where there is none.
    said = annotation.get("created_username")
    words = said.rpartition(",")[0].split() if isinstance(said, str) and said.isprintable() else []
    name = " ".join(words[:-1]) or "".join(words)
    return Effort(
        annotator=annotator,
        name=name,
        lead_time=lead_time,
        # Years at the ends of the calendar are not in every time zone.
        created_at=created_at if created_at is not None and 1970 <= created_at.year < 9999 else None,
    )


def describe_unreadable(error: Exception, number: str) -> str:
    """Why an annotation could not be read; what nobody foresaw is logged as well.

    Raises:
        Exception: The error itself, where it is not about the annotation.
    """
    if not is_of_value(error):
        raise error
    if not isinstance(error, SteerSegError):
        log.error("annotation %s cannot be read", number, exc_info=error)
    return describe_error(error)


def name_of(annotation: object, fallback: str) -> str:
    """An annotation's number as text, or what stands for it where it has none."""
    number = annotation.get("id") if isinstance(annotation, Mapping) else None
    return (
        str(number) if isinstance(number, int) and number.bit_length() < 512 else f"without number {fallback}"
    )


def annotation_digest(annotation: Mapping[str, Any], task_data: Mapping[str, Any]) -> str:
    """Hash of what counts in an annotation: whether it was skipped, its results, its star, and its task's data."""
    cancelled = bool(annotation.get("was_cancelled"))
    content = [cancelled, None if cancelled else [annotation.get("result"), own_data(task_data)]]
    if annotation.get("ground_truth"):
        content.append(True)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_OF_THE_COPY = frozenset({"id", "origin", "parentID", "score", "meta", "from_id", "to_id"})


def content_digest(annotation: Mapping[str, Any]) -> str:
    """Hash of what an annotation shows: an unchanged copy has the same, though Label Studio gives it new ids."""
    results = annotation.get("result")
    shown = [
        json.dumps(
            {name: value for name, value in result.items() if name not in _OF_THE_COPY}, sort_keys=True
        )
        for result in (results if isinstance(results, list) else ())
        if isinstance(result, Mapping)
    ]
    return hashlib.sha256(json.dumps(sorted(shown)).encode()).hexdigest() if shown else ""


def _objects(payload: Mapping[str, Any], *names: str) -> Iterator[Mapping[str, Any]]:
    """The objects below any of these names, each of which may hold one or a list."""
    for name in names:
        value = payload.get(name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                yield item


def _numbers(payload: Mapping[str, Any], *names: str) -> tuple[int, ...]:
    """The numbers of the objects below any of these names, which may be bare numbers as well."""
    numbers = []
    for name in names:
        value = payload.get(name)
        for item in value if isinstance(value, list) else [value]:
            number = item.get("id") if isinstance(item, Mapping) else item
            if isinstance(number, int) and not isinstance(number, bool):
                numbers.append(number)
    return tuple(dict.fromkeys(numbers))
