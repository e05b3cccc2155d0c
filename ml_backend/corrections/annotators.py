"""A project's annotators: who did what, how long it took, and how far they agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, tzinfo
from itertools import combinations
from statistics import fmean, median

from sqlalchemy import func, select

from ml_backend.corrections.efforts import annotator_names
from ml_backend.corrections.records import Correction, Problem, Verdict
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.tables import AnnotationRow, CorrectionRow, CorrectionState
from ml_backend.models.geometry import mask_iou

MOST_COMPARED = 400
"""Corrections of several annotators that are compared, the newest ones: each is read with all its masks."""


@dataclass(frozen=True)
class Agreement:
    """How far one annotator's masks agree with those of others, for the same words on the same task.

    Attributes:
        iou: Mean overlap in [0, 1] over the pairs of objects.
        pairs: How many pairs of objects were compared.
    """

    iou: float
    pairs: int


@dataclass(frozen=True)
class AnnotatorReport:
    """What one annotator did in a project.

    Attributes:
        annotator: Label Studio's number; ``None`` for annotations whose annotator is not known.
        name: For a person.
        annotations: Annotations that are there, skipped ones left out.
        skipped: Annotations that were skipped.
        corrected: Objects that were corrected.
        accepted: Objects that were accepted as they were proposed.
        rejected: Proposals that were rejected.
        set_aside: Objects that cannot be used, returned ones left out.
        returned: Objects that a reviewer returned.
        seconds: Median time of an annotation; ``None`` where Label Studio told none.
        total_seconds: Time of all annotations that Label Studio told one of.
        agreement: With other annotators; ``None`` where nobody else annotated the same.
    """

    annotator: int | None
    name: str
    annotations: int
    skipped: int
    corrected: int
    accepted: int
    rejected: int
    set_aside: int
    returned: int
    seconds: float | None
    total_seconds: float
    agreement: Agreement | None


@dataclass(frozen=True)
class Day:
    """What was submitted on one day.

    Attributes:
        day: The day, in the reader's time zone.
        annotations: How many annotations were submitted first.
        seconds: Median time of one; ``None`` where Label Studio told none.
    """

    day: date
    annotations: int
    seconds: float | None


@dataclass(frozen=True)
class _Done:
    annotator: int | None
    cancelled: bool
    seconds: float | None


def annotator_reports(database: Database, project_id: int) -> list[AnnotatorReport]:
    """What each annotator of a project did, the most diligent first.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        names = annotator_names(session, project_id)
        done = {
            number: _Done(annotator, cancelled, seconds)
            for number, annotator, cancelled, seconds in session.execute(
                select(
                    AnnotationRow.id,
                    AnnotationRow.annotator,
                    AnnotationRow.cancelled,
                    AnnotationRow.lead_time,
                ).where(AnnotationRow.project_id == project_id, AnnotationRow.deleted.is_(False))
            )
        }
        objects = session.execute(
            select(
                CorrectionRow.annotation_id,
                CorrectionRow.state,
                CorrectionRow.problem,
                CorrectionRow.verdict,
                CorrectionRow.touched,
            ).where(CorrectionRow.project_id == project_id)
        ).all()
    counts: dict[int | None, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for annotation, state, problem, verdict, touched in objects:
        if annotation in done:
            counts[done[annotation].annotator][_standing(state, problem, verdict, touched=touched)] += 1
    agreements = agreements_of(_of_several(database, project_id))
    by_person: dict[int | None, list[_Done]] = defaultdict(list)
    for one in done.values():
        by_person[one.annotator].append(one)
    reports = []
    for person, theirs in by_person.items():
        kept = [one for one in theirs if not one.cancelled]
        times = [one.seconds for one in kept if one.seconds is not None]
        mine = counts[person]
        reports.append(
            AnnotatorReport(
                annotator=person,
                name="not known" if person is None else names.get(person, f"annotator {person}"),
                annotations=len(kept),
                skipped=len(theirs) - len(kept),
                corrected=mine["corrected"],
                accepted=mine["accepted"],
                rejected=mine["rejected"],
                set_aside=mine["set aside"],
                returned=mine["returned"],
                seconds=median(times) if times else None,
                total_seconds=sum(times),
                agreement=None if person is None else agreements.get(person),
            )
        )
    return sorted(reports, key=lambda one: (-one.annotations, one.name))


def _standing(state: CorrectionState, problem: str | None, verdict: str | None, *, touched: bool) -> str:
    if state is CorrectionState.SET_ASIDE:
        return "returned" if problem == Problem.RETURNED else "set aside"
    if state is CorrectionState.PENDING:
        return "pending"
    if verdict == Verdict.REJECT:
        return "rejected"
    return "corrected" if touched else "accepted"


def throughput(database: Database, project_id: int, zone: tzinfo) -> list[Day]:
    """What was submitted on each day on which something was, the newest day first.

    Args:
        database: The database.
        project_id: The project.
        zone: The reader's time zone, in which days begin.

    Raises:
        StoreError: The database cannot be read.
    """
    with database.reading() as session:
        rows = session.execute(
            select(AnnotationRow.created_at, AnnotationRow.lead_time).where(
                AnnotationRow.project_id == project_id,
                AnnotationRow.deleted.is_(False),
                AnnotationRow.cancelled.is_(False),
                AnnotationRow.created_at.is_not(None),
            )
        ).all()
    days: dict[date, list[float | None]] = defaultdict(list)
    for created_at, seconds in rows:
        assert created_at is not None, "the query leaves these out"
        days[created_at.astimezone(zone).date()].append(seconds)
    return [
        Day(day, len(times), median(known) if (known := [one for one in times if one is not None]) else None)
        for day, times in sorted(days.items(), reverse=True)
    ]


# --- agreement


def _of_several(database: Database, project_id: int) -> list[tuple[int, Correction]]:
    """The newest usable corrections of tasks that several people annotated, each with its annotator."""
    usable = (
        CorrectionRow.project_id == project_id,
        CorrectionRow.state == CorrectionState.USABLE,
        CorrectionRow.verdict.is_distinct_from(str(Verdict.REJECT)),
    )
    joined = AnnotationRow.id == CorrectionRow.annotation_id
    several = (
        select(CorrectionRow.task_id)
        .join(AnnotationRow, joined)
        .where(*usable)
        .group_by(CorrectionRow.task_id)
        .having(func.count(AnnotationRow.annotator.distinct()) > 1)
    )
    with database.reading() as session:
        found = {
            number: annotator
            for number, annotator in session.execute(
                select(CorrectionRow.id, AnnotationRow.annotator)
                .join(AnnotationRow, joined)
                .where(*usable, CorrectionRow.task_id.in_(several))
                .order_by(CorrectionRow.id.desc())
                .limit(MOST_COMPARED)
            )
            if annotator is not None
        }
    return [(found[one.id], one) for one in CorrectionStore(database).of_numbers(found)]


def agreements_of(corrections: Iterable[tuple[int, Correction]]) -> dict[int, Agreement]:
    """How far annotators agree, by annotator.

    Args:
        corrections: Annotators by number, each with a correction.
    """
    alike: dict[tuple[int, str, str, str], list[tuple[int, Correction]]] = defaultdict(list)
    for annotator, one in corrections:
        if one.expression:
            key = (one.task_id, one.expression.casefold(), one.media_digest, one.side)
            alike[key].append((annotator, one))
    overlaps: dict[int, list[float]] = defaultdict(list)
    for group in alike.values():
        for (mine, first), (theirs, second) in combinations(group, 2):
            overlap = None if mine == theirs else _overlap(first, second)
            if overlap is not None:
                overlaps[mine].append(overlap)
                overlaps[theirs].append(overlap)
    return {annotator: Agreement(fmean(found), len(found)) for annotator, found in overlaps.items()}


def _overlap(first: Correction, second: Correction) -> float | None:
    """Mean IoU over the frames that both decided and one of them shows; ``None`` without any, or of other sizes."""
    both = [
        index
        for index in sorted(first.masks.keys() & second.masks.keys())
        if first.masks[index] is not None or second.masks[index] is not None
    ]
    if not both or (first.height, first.width) != (second.height, second.width):
        return None
    return fmean(mask_iou(first.masks[index], second.masks[index]) for index in both)
