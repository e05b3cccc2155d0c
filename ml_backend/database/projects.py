"""The Label Studio projects that this backend knows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from ml_backend.database.database import Database
from ml_backend.database.tables import OrderMode, ProjectRow, utc_now
from ml_backend.database.upsert import upsert


@dataclass(frozen=True)
class Project:
    """A Label Studio project as ``/setup`` last described it.

    Attributes:
        id: Its number in Label Studio.
        uid: Its number and the time of its creation, as Label Studio names it.
        label_config: Its labelling configuration.
        hostname: Address of its Label Studio; empty where that was not named.
        extra_params: Parameters of its model connection.
        last_seen: When it was described last.
        min_annotations: After how many annotations Label Studio's settings ask for training; ``None`` if unknown.
        repredicted: The version by which tasks without annotations were predicted anew last; ``None`` if none was.
        labelling_order: Whether the labelling order is written into the data of its tasks.
        title: Its title in Label Studio; empty until the project was read.
    """

    id: int
    uid: str
    label_config: str
    hostname: str
    extra_params: dict[str, Any]
    last_seen: datetime
    min_annotations: int | None = None
    repredicted: str | None = None
    labelling_order: OrderMode = OrderMode.OFF
    title: str = ""

    @property
    def name(self) -> str:
        """Its title, or its number where no title is known."""
        return self.title or f"Project {self.id}"


def project_of_row(row: ProjectRow) -> Project:
    """The project that a row keeps."""
    return Project(
        id=row.id,
        uid=row.uid,
        label_config=row.label_config,
        hostname=row.hostname,
        extra_params=row.extra_params,
        last_seen=row.last_seen,
        min_annotations=row.min_annotations,
        repredicted=row.repredicted,
        labelling_order=OrderMode(row.labelling_order),
        title=row.title,
    )


class ProjectStore:
    """Keeps what ``/setup`` says of each project. Safe to share between threads and processes.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(
        self, project_id: int, *, uid: str, label_config: str, hostname: str, extra_params: dict[str, Any]
    ) -> Project:
        """Insert or update what is known of a project; see :class:`Project` for the arguments.

        Returns:
            The project as it is known now.
        """
        values = {
            "uid": uid,
            "label_config": label_config,
            "hostname": hostname,
            "extra_params": extra_params,
            "last_seen": utc_now(),
        }
        with self._database.writing() as session:
            upsert(session, ProjectRow, [{"id": project_id, **values}], keys=["id"], update=list(values))
            return project_of_row(session.get_one(ProjectRow, project_id, populate_existing=True))

    def find(self, project_id: int) -> Project | None:
        """The project, or ``None`` where ``/setup`` never named it."""
        with self._database.reading() as session:
            row = session.get(ProjectRow, project_id)
            return None if row is None else project_of_row(row)

    def all(self) -> list[Project]:
        """All known projects by id."""
        with self._database.reading() as session:
            return [
                project_of_row(row) for row in session.scalars(select(ProjectRow).order_by(ProjectRow.id))
            ]

    def note_min_annotations(self, project_id: int, number: int) -> None:
        """Note after how many annotations Label Studio's settings ask for training."""
        with self._database.writing() as session:
            session.execute(
                update(ProjectRow)
                .where(ProjectRow.id == project_id)
                .values(min_annotations=number, last_seen=ProjectRow.last_seen)
            )

    def note_title(self, project_id: int, title: str) -> None:
        """Note the project's title in Label Studio."""
        with self._database.writing() as session:
            session.execute(
                update(ProjectRow)
                .where(ProjectRow.id == project_id, ProjectRow.title != title)
                .values(title=title, last_seen=ProjectRow.last_seen)
            )

    def note_repredicted(self, project_id: int, version: str) -> None:
        """Note by which prompt version the project's tasks were predicted anew."""
        with self._database.writing() as session:
            session.execute(
                update(ProjectRow)
                .where(ProjectRow.id == project_id)
                .values(repredicted=version, last_seen=ProjectRow.last_seen)
            )

    def order_labelling(self, project_id: int, mode: OrderMode) -> None:
        """Note whether the labelling order is written into the data of the project's tasks."""
        with self._database.writing() as session:
            session.execute(
                update(ProjectRow)
                .where(ProjectRow.id == project_id)
                .values(labelling_order=mode, last_seen=ProjectRow.last_seen)
            )
