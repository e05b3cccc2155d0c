"""Which annotation of a task counts.

One that carries Label Studio's ground-truth star comes first, then the newest of which masks can be used. An unchanged
copy of another annotation counts as that one. One that was skipped leaves the others as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ml_backend.corrections.records import Correction, Verdict

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class AnnotationStanding:
    """A submitted annotation, and what is usable of it.

    Attributes:
        id: Its number in Label Studio.
        task_id: Task in Label Studio.
        updated_at: When it was last changed.
        ground_truth: Whether it carries the star.
        content: Hash of what it shows.
        verdicts: Of each of its usable instances.
        reasons: Why each of its other instances cannot be used.
    """

    id: int
    task_id: int
    updated_at: datetime | None
    ground_truth: bool
    content: str
    verdicts: list[Verdict | None]
    reasons: list[str]

    @property
    def accepted(self) -> bool:
        """Whether there is something in it that was not rejected."""
        return any(verdict is not Verdict.REJECT for verdict in self.verdicts)

    @property
    def obstacle(self) -> str:
        """Why it is not the one that counts, for a person."""
        if self.verdicts:
            return "it rejects the masks"
        return "; ".join(dict.fromkeys(self.reasons)) or "nothing of it was read"


@dataclass(frozen=True)
class ChosenAnnotation:
    """Which annotation of a task counts.

    Attributes:
        task_id: The task.
        annotation_id: The annotation; ``None`` where none can be used.
        notes: Which annotations come before it and cannot be used, and why.
    """

    task_id: int
    annotation_id: int | None
    notes: tuple[str, ...]


def choose_annotations(annotations: Iterable[AnnotationStanding]) -> dict[int, ChosenAnnotation]:
    """The annotation that counts, by task.

    Args:
        annotations: All submitted annotations, skipped ones left out.
    """
    by_task: dict[int, list[AnnotationStanding]] = {}
    for annotation in annotations:
        by_task.setdefault(annotation.task_id, []).append(annotation)
    return {task: _chosen(task, members) for task, members in sorted(by_task.items())}


def _chosen(task: int, members: Sequence[AnnotationStanding]) -> ChosenAnnotation:
    starred = {one.content for one in members if one.ground_truth and one.content}
    ranked = sorted(
        _originals(members),
        key=lambda one: (one.ground_truth or one.content in starred, one.updated_at or _NEVER, one.id),
        reverse=True,
    )
    position = next((i for i, one in enumerate(ranked) if one.accepted), None)
    if position is None:
        return ChosenAnnotation(task, None, tuple(f"annotation {one.id}: {one.obstacle}" for one in ranked))
    chosen = ranked[position]
    notes = tuple(
        f"annotation {one.id} {'carries the star' if one.ground_truth else 'is newer'}, but {one.obstacle}; "
        f"annotation {chosen.id} stands in its place"
        for one in ranked[:position]
    )
    return ChosenAnnotation(task, chosen.id, notes)


def _originals(members: Sequence[AnnotationStanding]) -> list[AnnotationStanding]:
    """The annotations without unchanged copies; of those that show the same, the oldest that can be used."""
    kept: dict[str, AnnotationStanding] = {}
    for one in sorted(members, key=lambda one: (not one.accepted, one.id)):
        kept.setdefault(one.content or str(one.id), one)
    return list(kept.values())


def teaching(corrections: Sequence[Correction]) -> tuple[list[Correction], tuple[str, ...]]:
    """The corrections that a refinement may learn from, and a line for each reason why others are left out.

    Args:
        corrections: All usable corrections of a project.
    """
    starred = {one.task_id for one in corrections if one.ground_truth}
    first: dict[tuple[int, str], int] = {}
    for one in sorted(corrections, key=lambda one: (not one.ground_truth, one.annotation_id)):
        if one.content:
            first.setdefault((one.task_id, one.content), one.annotation_id)
    reasons: Counter[str] = Counter()
    kept = []
    for one in corrections:
        reason = _reason(one, starred, first)
        if reason is None:
            kept.append(one)
        else:
            reasons[reason] += 1
    return kept, tuple(
        f"{number} corrections left out: {reason}" for reason, number in sorted(reasons.items())
    )


def _reason(one: Correction, starred: set[int], first: Mapping[tuple[int, str], int]) -> str | None:
    if not one.expression:
        return "they have no expression of their own"
    if one.content and first[one.task_id, one.content] != one.annotation_id:
        return "their annotation is an unchanged copy of another one"
    beside = one.task_id in starred and not one.ground_truth
    return "another annotation of their task carries the ground-truth star" if beside else None
