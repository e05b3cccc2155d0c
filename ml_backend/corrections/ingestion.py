"""From Label Studio's events, and from what it has, to the decisions in the store.

An event is committed before it is acknowledged. Right afterwards, in a thread of its own, it is dispatched to what has
to hear of it, and then its annotations are read. Each step is written together with its mark on the event, so a killed
process goes on where it was. An event that comes twice, late or in the wrong order changes no correction: the newest
state of an annotation counts, and a deleted one stays deleted. What a webhook lost is found by reading the project.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml_backend.corrections.annotations import read_annotation, read_time
from ml_backend.corrections.records import Decision, Problem
from ml_backend.corrections.store import Annotated, Changes, CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventHandler, EventStore, StoredEvent
from ml_backend.database.projects import ProjectStore
from ml_backend.expressions import task_expression
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.errors import LabelStudioError, LabelStudioNotFoundError
from ml_backend.settings import Settings
from steerseg.errors import ConfigError, ExpressionError, SteerSegError

log = logging.getLogger(__name__)

_WRITTEN = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_UPDATED"}
)
_DELETED = frozenset({"ANNOTATION_DELETED", "ANNOTATIONS_DELETED"})
_TASKS_DELETED = frozenset({"TASK_DELETED", "TASKS_DELETED"})

_BATCH = 10  # events read at a time: each may be megabytes
_RETRY = 30.0  # seconds until what failed is tried again
_BEING_READ = float("inf")

Fallback = Callable[[int | None, Mapping[str, Any]], str | None]
"""The expression of a task by its project and data, for where an annotation names none."""


@dataclass(frozen=True)
class Outcome:
    """What an event says.

    Attributes:
        changes: What follows from it.
        error: Why nothing, or not all, could be made of it.
        incomplete: Whether it left something out that the project's API has.
    """

    changes: Changes
    error: str | None = None
    incomplete: bool = False


class _IncompleteError(SteerSegError):
    """An event does not hold all that is needed."""


Complete = Callable[[Mapping[str, Any], int, int, str], Mapping[str, Any]]
"""An annotation with what Label Studio has left out, from it, its project, its task and the configuration."""


def as_it_came(
    annotation: Mapping[str, Any], project_id: int, task_id: int, label_config: str
) -> Mapping[str, Any]:
    """Nothing was left out."""
    return annotation


def ingest(
    event: StoredEvent,
    fallback: Fallback,
    label_config: str | None = None,
    complete: Complete = as_it_came,
) -> Outcome:
    """Read an event; touches neither database nor network by itself.

    Args:
        event: A webhook's payload. Plural and singular actions may hold one object or a list of them.
        fallback: The expression of a task whose annotation names none.
        label_config: The project's labelling configuration as it is known, for events without one.
        complete: Completes its annotations.

    Raises:
        StoreError: Of ``complete``: the database cannot be read.
    """
    payload = event.payload
    if event.action in _DELETED:
        return Outcome(Changes(deleted_annotations=_numbers(payload, "annotation", "annotations")))
    if event.action in _TASKS_DELETED:
        return Outcome(Changes(deleted_tasks=_numbers(payload, "task", "tasks")))
    if event.action not in _WRITTEN:
        return Outcome(Changes())
    annotations = list(_objects(payload, "annotation", "annotations"))
    tasks = {task["id"]: task for task in _objects(payload, "task", "tasks") if "id" in task}
    project = payload.get("project")
    given = project.get("label_config") if isinstance(project, Mapping) else None
    annotated: list[Annotated] = []
    errors: list[str] = [] if annotations else ["the event holds no annotation"]
    incomplete = not annotations
    for annotation in annotations:
        try:
            task = annotation.get("task")
            task_id = task.get("id") if isinstance(task, Mapping) else task
            found = task if isinstance(task, Mapping) and "data" in task else tasks.get(task_id)
            project_id = annotation.get("project")
            annotated.append(
                read_state(
                    annotation,
                    project_id=project_id if isinstance(project_id, int) else event.project_id,
                    task=found,
                    label_config=given if isinstance(given, str) else label_config,
                    fallback=fallback,
                    complete=complete,
                )
            )
        except _IncompleteError as error:
            incomplete = True
            errors.append(str(error))
        except StoreError:
            raise
        except SteerSegError as error:
            errors.append(f"annotation {annotation.get('id')}: {error}")
    return Outcome(Changes(annotated=tuple(annotated)), "; ".join(errors) or None, incomplete)


def read_state(
    annotation: Mapping[str, Any],
    *,
    project_id: int | None,
    task: Mapping[str, Any] | None,
    label_config: str | None,
    fallback: Fallback,
    complete: Complete = as_it_came,
) -> Annotated:
    """One annotation, from an event or from the API, as what it decides.

    Raises:
        SteerSegError: It, its task or the labelling configuration is missing or cannot be read.
    """
    number, task_id = annotation.get("id"), None if task is None else task.get("id")
    task_data = {} if task is None else task.get("data")
    if task_id is None and isinstance(annotation.get("task"), int):
        task_id = annotation["task"]
    cancelled = bool(annotation.get("was_cancelled"))
    if not isinstance(number, int) or not isinstance(task_id, int) or project_id is None:
        raise _IncompleteError("an annotation came without its number, its task or its project")
    if not cancelled and not (task_data and isinstance(task_data, dict) and label_config is not None):
        raise _IncompleteError(f"annotation {number} came without the data or configuration of its task")
    if not cancelled and not isinstance(annotation.get("result"), list):
        raise _IncompleteError(f"annotation {number} came without its result")
    assert isinstance(task_data, dict)
    decisions: tuple[Decision, ...] = ()
    if not cancelled:
        annotation = complete(annotation, project_id, task_id, label_config or "")
        decisions = read_annotation(
            annotation,
            task_data=task_data,
            label_config=label_config or "",
            expression=fallback(project_id, task_data),
        )
    return Annotated(
        id=number,
        project_id=project_id,
        task_id=task_id,
        updated_at=read_time(annotation.get("updated_at")),
        digest=annotation_digest(annotation, task_data),
        cancelled=cancelled,
        decisions=decisions,
    )


def annotation_digest(annotation: Mapping[str, Any], task_data: Mapping[str, Any]) -> str:
    """Hash of what counts in an annotation: whether it was skipped, its results, and the data of its task."""
    cancelled = bool(annotation.get("was_cancelled"))
    content = [cancelled, None if cancelled else [annotation.get("result"), task_data]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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


@dataclass(frozen=True)
class Reconciled:
    """What reading a project gave.

    Attributes:
        annotations: How many annotations Label Studio has, skipped ones left out.
        changed: How many were unknown, other than known, or gone.
        errors: What could not be read, in words.
    """

    annotations: int
    changed: int
    errors: tuple[str, ...]


class Ingestor:
    """Keeps the store's corrections equal to what annotators did. Safe to share between threads.

    Args:
        settings: How often projects are read.
        store: The database.
        corrections: The corrections in it.
        connections: Connections to Label Studio.
        on_change: Called with a project's number after decisions of it were written; should return quickly.
        complete: Completes annotations.
        handlers: Write what events say beside their annotations, before these are read.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        corrections: CorrectionStore,
        connections: Connections,
        on_change: Callable[[int], None],
        complete: Complete = as_it_came,
        handlers: Sequence[EventHandler] = (),
    ) -> None:
        self._settings = settings
        self._project_store = ProjectStore(database)
        self._corrections = corrections
        self._connections = connections
        self._on_change = on_change
        self._complete = complete
        self._events = EventStore(database)
        self._handlers = handlers
        self._changed = threading.Condition()
        self._news = False
        self._closing = False
        self._due: dict[int, float] = {}  # when each project is to be read next, by the monotonic clock
        self._read: set[int] = set()  # projects that this process has read
        self._reading = threading.Lock()
        self._threads = [
            threading.Thread(target=self._follow_events, name="ingest", daemon=True),
            threading.Thread(target=self._follow_projects, name="reconcile", daemon=True),
        ]

    def start(self) -> None:
        """Begin with what an earlier process has left, and with reading every known project."""
        with self._changed:
            self._news = True
            for project in self._project_store.all():
                self._due[project.id] = 0.0
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop; what is not yet processed is at the next start. May be repeated."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(1.0)

    def notify(self) -> None:
        """Say that an event was committed. Returns at once."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def introduce(self, project_id: int) -> None:
        """Say that a project can be read now; it is, unless it was before. Returns at once."""
        if project_id not in self._read:
            self._ask(project_id)

    def _ask(self, project_id: int) -> None:
        with self._changed:
            self._due[project_id] = 0.0
            self._changed.notify_all()

    # --- events

    def dispatch(self) -> None:
        """Let what an event says beside its annotations be known, for every committed event. Asks no other server.

        Raises:
            StoreError: The database cannot be used; what was not dispatched stays so.
        """
        self._events.dispatch(self._handlers)

    def catch_up(self) -> int:
        """Dispatch and process every committed event; return how many were processed.

        Raises:
            StoreError: The database cannot be used; what was not processed stays so.
        """
        number = 0
        self.dispatch()
        while events := self._events.unprocessed(_BATCH):
            for event in events:
                self._process(event)
                number += 1
                if self._closing:
                    return number
                self.dispatch()  # of what came meanwhile: to read an annotation may take long
        return number

    def _process(self, event: StoredEvent) -> None:
        known = None if event.project_id is None else self._project_store.find(event.project_id)
        try:
            outcome = ingest(
                event, self._fallback, None if known is None else known.label_config, self._complete
            )
        except StoreError:
            raise  # it waits
        except Exception as error:
            # One event that nobody foresaw must not keep all later ones from being processed.
            log.error("webhook event %d (%s): unexpected error", event.id, event.action, exc_info=error)
            outcome = Outcome(Changes(), f"unexpected {type(error).__name__}", incomplete=True)
        if not self._corrections.process(event.id, outcome.changes, outcome.error):
            return
        if outcome.error is not None:
            log.warning("webhook event %d (%s): %s", event.id, event.action, outcome.error)
        if outcome.incomplete and event.project_id is not None:
            self._ask(event.project_id)
        for annotated in outcome.changes.annotated:
            _log_problems(annotated)
        if event.project_id is not None and outcome.changes != Changes():
            self._on_change(event.project_id)

    def _fallback(self, project_id: int | None, data: Mapping[str, Any]) -> str | None:
        project = None if project_id is None else self._project_store.find(project_id)
        try:
            return task_expression(data, {} if project is None else project.extra_params, self._settings)
        except ExpressionError:
            return None  # whoever needs it says that there is none

    # --- projects

    def reconcile(self, project_id: int) -> Reconciled:
        """Read a project's annotations and make the store equal to them.

        Raises:
            LabelStudioError: Label Studio cannot be asked; nothing was changed.
            ConfigError: Its address or token is not known, or its labelling configuration is unusable.
            StoreError: The database cannot be used.
        """
        with self._reading:  # one at a time: both would read the same
            self.catch_up()
            asked_at = datetime.now(UTC)
            project = self._project_store.find(project_id)
            client = None if project is None else self._connections.client(project)
            if client is None:
                raise ConfigError(
                    f"the annotations of project {project_id} cannot be read: no token for its Label Studio is "
                    "known; set STEERSEG_LABEL_STUDIO_API_KEY and STEERSEG_LABEL_STUDIO_URL, or open the "
                    "project's Settings › Model"
                )
            result = self._reconcile(project_id, client, asked_at)
        self._read.add(project_id)
        if result.changed:
            log.info("project %d: %d annotations were new, changed or gone", project_id, result.changed)
        self._corrections.retry(project_id, (Problem.MEDIA_GONE, Problem.MODEL))
        self._on_change(project_id)
        return result

    def _reconcile(self, project_id: int, client: LabelStudioClient, asked_at: datetime) -> Reconciled:
        label_config = client.projects.get(project_id).get("label_config")
        if not isinstance(label_config, str):
            raise LabelStudioError(
                f"{client.url} does not tell the labelling configuration of project {project_id}"
            )
        known = self._corrections.known(project_id)
        present: set[int] = set()
        changed: list[Annotated] = []
        errors: list[str] = []

        def look(annotation: Mapping[str, Any], task: Mapping[str, Any]) -> None:
            number = int(annotation["id"])
            present.add(number)
            state = read_time(annotation.get("updated_at")), annotation_digest(annotation, task["data"])
            if known.get(number) == state:
                return
            try:
                read = read_state(
                    annotation,
                    project_id=project_id,
                    task=task,
                    label_config=label_config,
                    fallback=self._fallback,
                    complete=self._complete,
                )
            except SteerSegError as error:
                errors.append(f"annotation {number}: {error}")
            else:
                _log_problems(read)
                changed.append(read)

        tasks: dict[int, dict[str, Any]] = {}
        for task in client.tasks.of_project(project_id):
            tasks[int(task["id"])] = task
            if task.get("total_annotations") != 0:
                for annotation in client.annotations.of_task(int(task["id"])):
                    look(annotation, task)
        # Not listed: skipped, or deleted, or made while we were reading.
        for number in sorted(known.keys() - present):
            try:
                annotation = client.annotations.get(number)
            except LabelStudioNotFoundError:
                continue
            found = tasks.get(annotation.get("task") or 0)
            if found is not None:
                look(annotation, found)
        number = self._corrections.reconcile(project_id, present, changed, asked_at)
        for error in errors:
            log.warning("project %d: %s", project_id, error)
        return Reconciled(len(present), number, tuple(errors))

    # --- threads

    def _follow_events(self) -> None:
        while True:
            with self._changed:
                while not self._news and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                self._news = False
            try:
                self.catch_up()
            except StoreError as error:
                log.error("webhook events wait: %s", error)
                self._pause(_RETRY)
                self.notify()

    def _follow_projects(self) -> None:
        while True:
            project_id = self._next_due()
            if project_id is None:
                return
            delay = self._settings.reconcile_interval
            try:
                self.reconcile(project_id)
            except ConfigError as error:
                log.info("project %d was not read: %s", project_id, error)
            except SteerSegError as error:
                log.warning("project %d was not read: %s", project_id, error)
                delay = min(delay, _RETRY)
            except Exception:
                # This thread reads every other project too.
                log.exception("project %d was not read", project_id)
            with self._changed:
                if self._due[project_id] == _BEING_READ:  # not asked for again meanwhile
                    self._due[project_id] = time.monotonic() + delay

    def _next_due(self) -> int | None:
        """Wait for the next project that is to be read; ``None`` at the end."""
        with self._changed:
            while not self._closing:
                due = min(self._due, key=self._due.__getitem__, default=None)
                if due is None or self._due[due] == _BEING_READ:
                    self._changed.wait()
                    continue
                left = self._due[due] - time.monotonic()
                if left <= 0:
                    self._due[due] = _BEING_READ
                    return due
                self._changed.wait(left)
            return None

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)


def _log_problems(annotated: Annotated) -> None:
    for decision in annotated.decisions:
        if decision.problem is not None:
            log.warning(
                "project %d, task %d, annotation %d: set aside (%s): %s",
                annotated.project_id,
                annotated.task_id,
                annotated.id,
                decision.problem[0],
                decision.problem[1],
            )
