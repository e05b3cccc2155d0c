"""From Label Studio's events, and from what it has, to the decisions in the store.

An event is committed before it is acknowledged. Right afterwards, in a thread of its own, it is dispatched to its
handlers, and then its annotations are read. Each step is written together with the note that it was done, so a killed
process goes on where it was. An event that comes twice, late or in the wrong order changes no correction: the newest
state of an annotation counts, and a deleted one stays deleted. What a webhook lost comes from reading the project.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml_backend.background import BackgroundLoop
from ml_backend.corrections.annotation_store import (
    AnnotationState,
    AnnotationStore,
    Changes,
    ListedAnnotation,
)
from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.efforts import note_efforts
from ml_backend.corrections.event_reader import AnnotationReader, Complete, EventContent, unchanged
from ml_backend.corrections.project_reader import ProjectReader
from ml_backend.corrections.records import TRIED_AGAIN
from ml_backend.database.database import Database
from ml_backend.database.errors import is_of_value
from ml_backend.database.events import EventHandler, EventStore, StoredEvent
from ml_backend.database.projects import ProjectStore
from ml_backend.database.set_aside import SetAsideStore
from ml_backend.label_studio.connections import Connections
from ml_backend.language.expressions import task_expression
from ml_backend.settings import Settings
from steerseg.errors import ConfigError, ExpressionError, SteerSegError

log = logging.getLogger(__name__)

_BATCH = 10  # events read at a time: each may be megabytes
_RETRY = 30.0  # seconds until what failed is tried again
_PAUSE = 1.0  # seconds until the next project is read, after one whose reading failed unexpectedly
_BEING_READ = float("inf")


@dataclass(frozen=True)
class Reconciliation:
    """What reading a project gave.

    Attributes:
        annotations: How many annotations Label Studio has, skipped ones left out.
        changed: How many were unknown, other than known, or gone.
        unreadable: Why an annotation could not be read or written, by its number as text. It is set aside.
        listed: What the project's list says of each annotation.
        label_config: The project's labelling configuration.
    """

    annotations: int
    changed: int
    unreadable: Mapping[str, str]
    listed: tuple[ListedAnnotation, ...]
    label_config: str

    @property
    def errors(self) -> tuple[str, ...]:
        """What could not be taken in, and why, in lines for a person."""
        return tuple(f"annotation {number}: {reason}" for number, reason in self.unreadable.items())


class Ingestor:
    """Keeps the store's corrections equal to what annotators did. Safe to share between threads.

    Args:
        settings: How often projects are read.
        database: The database.
        connections: Connections to Label Studio.
        on_change: Called with a project's number after decisions of it were written; should return quickly.
        on_dispatch: Called after events were dispatched; should return quickly.
        complete: Completes annotations.
        handlers: Write what events say beside their annotations, before these are read.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        connections: Connections,
        on_change: Callable[[int], None],
        on_dispatch: Callable[[], None] = lambda: None,
        complete: Complete = unchanged,
        handlers: Sequence[EventHandler] = (),
    ) -> None:
        self._settings = settings
        self._database = database
        self._project_store = ProjectStore(database)
        self._annotations = AnnotationStore(database)
        self._completions = CompletionStore(database)
        self._connections = connections
        self._on_change = on_change
        self._on_dispatch = on_dispatch
        self._reader = AnnotationReader(self._task_expression, complete)
        self._events = EventStore(database)
        self._aside = SetAsideStore(database)
        self._set_aside = 0
        self._handlers = handlers
        self._due_lock = threading.Lock()
        self._due: dict[int, float] = {}  # when each project is to be read next, by the monotonic clock
        self._read: set[int] = set()  # projects that this process has read
        self._reading = threading.Lock()
        self._event_loop = BackgroundLoop("ingestion", self._process_events, pause=_RETRY)
        self._project_loop = BackgroundLoop("reconciliation", self._read_next_project, pause=_PAUSE)
        self.loops = (self._event_loop, self._project_loop)

    @property
    def set_aside(self) -> int:
        """How many events and annotations were set aside at the last look. Does not touch the database."""
        return self._set_aside

    def start(self) -> None:
        """Begin with what an earlier process has left, and with reading every known project."""
        with self._due_lock:
            for project in self._project_store.all():
                self._due[project.id] = 0.0
        for loop in self.loops:
            loop.start()

    def close(self) -> None:
        """Stop; what is not yet processed is at the next start. May be repeated."""
        for loop in self.loops:
            loop.stop()
        for loop in self.loops:
            loop.close(1.0)

    def notify(self) -> None:
        """Say that an event was committed. Returns at once."""
        self._event_loop.notify()

    def introduce(self, project_id: int) -> None:
        """Say that a project can be read now; it is, unless it was before. Returns at once."""
        if project_id not in self._read:
            self._ask(project_id)

    def take_again(self, project_id: int) -> None:
        """Take up what was set aside of a project: its events, and its annotations by reading it. Returns at once.

        Raises:
            StoreError: The database cannot be used.
        """
        number = self._events.take_again(project_id)
        log.info("project %d: %d events that were set aside are taken again", project_id, number)
        self._event_loop.notify()
        self._ask(project_id)

    def _ask(self, project_id: int) -> None:
        with self._due_lock:
            self._due[project_id] = 0.0
        self._project_loop.notify()

    # --- events

    def dispatch(self) -> None:
        """Let what an event says beside its annotations be known, for every committed event. Asks no other server.

        Raises:
            StoreError: The database cannot be used; what was not dispatched stays so.
        """
        dispatched = self._events.dispatch(self._handlers)
        if dispatched.number:
            self._on_dispatch()
        for project_id in dispatched.set_aside:
            self._ask(project_id)  # what the event was about is found there

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
                if self._event_loop.closing:
                    return number
                self.dispatch()  # of what came meanwhile: to read an annotation may take long
        return number

    def _process(self, event: StoredEvent) -> None:
        known = None if event.project_id is None else self._project_store.find(event.project_id)
        try:
            content = self._reader.read_event(event, None if known is None else known.label_config)
            if not self._annotations.process(event.id, content.changes, content.error):
                return
        except Exception as error:
            if not is_of_value(error):
                raise  # it waits
            self._events.set_aside(event.id, error)
            content = EventContent(Changes(), incomplete=True)
        if content.error is not None:
            log.warning("webhook event %d (%s): %s", event.id, event.action, content.error)
        if content.incomplete and event.project_id is not None:
            self._ask(event.project_id)
        for state in content.changes.states:
            _log_problems(state)
        if event.project_id is not None and content.changes != Changes():
            self._on_change(event.project_id)

    def _task_expression(self, project_id: int | None, data: Mapping[str, Any]) -> str | None:
        project = None if project_id is None else self._project_store.find(project_id)
        try:
            return task_expression(data, {} if project is None else project.extra_params, self._settings)
        except ExpressionError:
            return None  # whoever needs it says that there is none

    # --- projects

    def reconcile(self, project_id: int) -> Reconciliation:
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
            known = self._annotations.known(project_id)
            content = ProjectReader(client, project_id, known, self._reader).read()
            reconciled = self._annotations.reconcile(
                project_id, content.present, content.changed, asked_at, content.unreadable
            )
            note_efforts(self._database, project_id, {one.id: one.effort for one in content.listed})
            self._project_store.note_title(project_id, content.title)
        self._read.add(project_id)
        for state in content.changed:
            _log_problems(state)
        for number, reason in reconciled.refused.items():
            log.warning("project %d: annotation %s is set aside: %s", project_id, number, reason)
        if reconciled.changed:
            log.info("project %d: %d annotations were new, changed or gone", project_id, reconciled.changed)
        self._set_aside = self._aside.count()
        self._completions.retry(project_id, TRIED_AGAIN)
        self._on_change(project_id)
        return Reconciliation(
            annotations=len(content.present),
            changed=reconciled.changed,
            unreadable=reconciled.refused,
            listed=tuple(content.listed),
            label_config=content.label_config,
        )

    # --- background loops

    def _process_events(self) -> None:
        self.catch_up()
        self._set_aside = self._aside.count()

    def _read_next_project(self) -> float | None:
        """Read the project that is due, if there is one; return the seconds until the next one is."""
        project_id = self._take_due()
        if project_id is not None:
            delay = self._settings.reconcile_interval
            try:
                self.reconcile(project_id)
            except ConfigError as error:
                log.info("project %d was not read: %s", project_id, error)
            except SteerSegError as error:
                log.warning("project %d was not read: %s", project_id, error)
                delay = min(delay, _RETRY)
            finally:
                with self._due_lock:
                    if self._due[project_id] == _BEING_READ:  # not asked for again meanwhile
                        self._due[project_id] = time.monotonic() + delay
        with self._due_lock:
            due = min(self._due.values(), default=_BEING_READ)
        return None if due == _BEING_READ else max(0.0, due - time.monotonic())

    def _take_due(self) -> int | None:
        """The project whose time has come first, noted as being read; ``None`` where there is none."""
        with self._due_lock:
            project_id = min(self._due, key=self._due.__getitem__, default=None)
            if project_id is None or self._due[project_id] > time.monotonic():
                return None
            self._due[project_id] = _BEING_READ
            return project_id


def _log_problems(state: AnnotationState) -> None:
    for decision in state.decisions:
        if decision.problem is not None:
            log.warning(
                "project %d, task %d, annotation %d: set aside (%s): %s",
                state.project_id,
                state.task_id,
                state.id,
                *decision.problem,
            )
