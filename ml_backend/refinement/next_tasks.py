"""A project's labelling order: computed from the database, and written into Label Studio where a person wants that."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from sqlalchemy import and_, func, select

from ml_backend.background import BackgroundLoop
from ml_backend.corrections.grouping import group_of
from ml_backend.corrections.records import Verdict
from ml_backend.database.database import Database
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.database.tables import (
    AnnotationRow,
    CorrectionRow,
    CorrectionState,
    DeletedTaskRow,
    OrderMode,
    ProposalRow,
    TaskRow,
)
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task import ORDER_KEY
from ml_backend.refinement.labelling_order import CorrectedTask, NextTask, OpenTask, order_tasks
from steerseg.errors import SteerSegError

log = logging.getLogger(__name__)

MOST = 50
"""Tasks of an order; the others have none."""
_TICK = 10.0  # seconds between two looks at the orders
_PAUSE = 60.0  # seconds between two writings of a project's order
_PAGE = 20  # tasks that are read at once: what others change in their data meanwhile would be lost


@dataclass(frozen=True)
class LabellingOrder:
    """What to label next in a project.

    Attributes:
        tasks: The first tasks of the order.
        open: How many tasks have a proposal and no annotation.
    """

    tasks: tuple[NextTask, ...]
    open: int


class NextTasks:
    """Computes the labelling orders of projects. Safe to share between threads and processes.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._proposals = ProposalStore(database)

    def order(self, project_id: int, limit: int = MOST) -> LabellingOrder:
        """The tasks to label next. Tasks that were never predicted, and annotated or skipped ones, have no place.

        Raises:
            StoreError: The database cannot be read.
        """
        certainties = self._proposals.certainties(project_id)
        with self._database.reading() as session:
            newest = select(func.max(ProposalRow.id)).where(ProposalRow.project_id == project_id)
            known = and_(TaskRow.project_id == ProposalRow.project_id, TaskRow.task_id == ProposalRow.task_id)
            proposals = {
                task: (expression, group_of(data or {}, digest))
                for task, expression, digest, data in session.execute(
                    select(
                        ProposalRow.task_id, ProposalRow.expression, ProposalRow.media_digest, TaskRow.data
                    )
                    .outerjoin(TaskRow, known)
                    .where(ProposalRow.id.in_(newest.group_by(ProposalRow.task_id)))
                )
            }
            done = set(
                session.scalars(
                    select(AnnotationRow.task_id).where(
                        AnnotationRow.project_id == project_id, AnnotationRow.deleted.is_(False)
                    )
                )
            ) | set(session.scalars(select(DeletedTaskRow.id)))
            corrected = [
                CorrectedTask(expression, proposals[task][1] if task in proposals else f"of task {task}")
                for task, expression in session.execute(
                    select(CorrectionRow.task_id, CorrectionRow.expression).where(
                        CorrectionRow.project_id == project_id,
                        CorrectionRow.state == CorrectionState.USABLE,
                        CorrectionRow.verdict.is_distinct_from(str(Verdict.REJECT)),
                    )
                )
            ]
        tasks = [
            OpenTask(task, expression, video, certainties[task])
            for task, (expression, video) in sorted(proposals.items())
            if task not in done and task in certainties
        ]
        return LabellingOrder(tuple(order_tasks(tasks, corrected, limit)), len(tasks))


class OrderWriter:
    """Writes orders into the data of tasks, where the Data Manager shows and sorts them. Safe to share between threads.

    Args:
        database: The database.
        connections: Connections to Label Studio.
        next_tasks: Computes the orders.
    """

    def __init__(self, database: Database, connections: Connections, next_tasks: NextTasks) -> None:
        self._projects = ProjectStore(database)
        self._connections = connections
        self._next_tasks = next_tasks
        self._written: dict[int, dict[int, str]] = {}
        self._not_before: dict[int, float] = {}  # by the monotonic clock
        self._problems: dict[int, str] = {}
        self.loop = BackgroundLoop("labelling order", self._look, pause=_TICK)

    def start(self) -> None:
        """Begin, with the orders as they are."""
        self.loop.start()

    def close(self) -> None:
        """Stop. May be repeated."""
        self.loop.close()

    def switch(self, project_id: int, *, on: bool) -> None:
        """Have a project's order written into the data of its tasks, or removed from there.

        Raises:
            StoreError: The database cannot be written.
        """
        self._projects.order_labelling(project_id, OrderMode.ON if on else OrderMode.REMOVING)
        self._not_before.pop(project_id, None)
        self.loop.notify()

    def problem(self, project_id: int) -> str:
        """Why the order of a project could not be written; empty where nothing is wrong."""
        return self._problems.get(project_id, "")

    def _look(self) -> float:
        """Write what changed; return the seconds until the next look."""
        for project in self._projects.all():
            if project.labelling_order is OrderMode.OFF or self.loop.closing:
                continue
            if time.monotonic() >= self._not_before.get(project.id, 0.0):
                self._bring_up_to_date(project)
        return _TICK

    def _bring_up_to_date(self, project: Project) -> None:
        removing = project.labelling_order is OrderMode.REMOVING
        wanted = {} if removing else self._wanted(project.id)
        if not removing and self._written.get(project.id) == wanted:
            return
        self._not_before[project.id] = time.monotonic() + _PAUSE
        try:
            client = self._connections.client(project)
            if client is None:
                raise SteerSegError(
                    "no token for Label Studio is known yet; open the project's model settings"
                )
            changed = self._write(client, project.id, wanted)
        except SteerSegError as error:
            self._problems[project.id] = str(error)
            log.warning("project %d: its labelling order was not written: %s", project.id, error)
            return
        self._problems.pop(project.id, None)
        self._written[project.id] = wanted
        if removing:
            self._written.pop(project.id)
            self._projects.order_labelling(project.id, OrderMode.OFF)
        log.info("project %d: the labelling order was written into %d tasks", project.id, changed)

    def _wanted(self, project_id: int) -> dict[int, str]:
        return {one.task.id: one.text for one in self._next_tasks.order(project_id).tasks}

    def _write(self, client: LabelStudioClient, project_id: int, wanted: dict[int, str]) -> int:
        """Change the data of tasks where they differ; return of how many.

        Raises:
            LabelStudioError: It cannot be reached, or refuses.
        """
        changed = 0
        for task in client.tasks.of_project(project_id, page_size=_PAGE):
            number = int(task["id"])
            text = wanted.get(number)
            if task["data"].get(ORDER_KEY) != text:
                client.tasks.set_value(number, ORDER_KEY, text)
                changed += 1
        return changed
