"""Which annotation of each task an export takes, and why it leaves the others out.

One annotation of a task counts: the one with Label Studio's ground-truth star, else the newest that can be used. An
unchanged copy counts as the annotation that it copies. Skipped and rejected annotations never count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ml_backend.corrections.annotation_store import ListedAnnotation
from ml_backend.corrections.records import Correction
from ml_backend.corrections.selection import ShownAnnotation, originals
from ml_backend.exporting.omissions import Omission

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class UnusableInstance:
    """An instance of an annotation that cannot be exported, or cannot yet.

    Attributes:
        name: Tells it from the annotation's other instances.
        reason: Why, for a person.
    """

    task_id: int
    annotation_id: int
    name: str
    reason: str


@dataclass(frozen=True)
class ProjectAnnotations:
    """What is known of a project's annotations.

    Attributes:
        listed: Every annotation that was submitted or skipped.
        corrections: Their usable instances, rejected ones included.
        unusable: Their other instances.
        unreadable: Why an annotation could not be read, by its number as text.
        problem: Why Label Studio could not be asked; empty where it was.
    """

    listed: tuple[ListedAnnotation, ...]
    corrections: tuple[Correction, ...] = field(repr=False)
    unusable: tuple[UnusableInstance, ...]
    unreadable: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True)
class Selection:
    """What an export takes.

    Attributes:
        corrections: The instances of each task's chosen annotation, by number.
        omissions: Every other annotation and instance, with the reason.
    """

    corrections: tuple[Correction, ...] = field(repr=False)
    omissions: tuple[Omission, ...]


def select(project: ProjectAnnotations) -> Selection:
    """Choose the annotation of each task."""
    instances: dict[int, list[Correction]] = {}
    for correction in project.corrections:
        instances.setdefault(correction.annotation_id, []).append(correction)
    unusable: dict[int, list[UnusableInstance]] = {}
    for one in project.unusable:
        unusable.setdefault(one.annotation_id, []).append(one)
    by_task: dict[int, list[_Candidate]] = {}
    for listed in project.listed:
        candidate = _Candidate(
            listed,
            tuple(instances.get(listed.id, ())),
            tuple(unusable.get(listed.id, ())),
            project.unreadable.get(str(listed.id), ""),
        )
        by_task.setdefault(listed.task_id, []).append(candidate)
    chosen: list[Correction] = []
    omissions: list[Omission] = []
    if project.problem:
        reason = (
            f"{project.problem}; what no webhook brought is missing: annotations, changes of them, and stars"
        )
        omissions.append(Omission(0, None, "", reason))
    for _, candidates in sorted(by_task.items()):
        taken, left_out = _of_task(candidates)
        chosen += taken
        omissions += left_out
    return Selection(tuple(chosen), tuple(omissions))


@dataclass(frozen=True)
class _Candidate:
    """An annotation that a task's export may take."""

    listed: ListedAnnotation
    corrections: Sequence[Correction]
    unusable: Sequence[UnusableInstance]
    error: str

    @property
    def accepted(self) -> list[Correction]:
        return [one for one in self.corrections if not one.rejected]

    def order(self, starred: Collection[int]) -> tuple[bool, datetime, int]:
        """What a task's annotations are ordered by; the one with the largest counts."""
        return self.listed.id in starred, self.listed.updated_at or _NEVER, self.listed.id

    def omission(self, reason: str, expected: bool) -> Omission:
        return Omission(self.listed.task_id, self.listed.id, "", reason, expected)


def _of_task(candidates: Sequence[_Candidate]) -> tuple[list[Correction], list[Omission]]:
    """The corrections of one task's chosen annotation, and why the rest is left out."""
    copies = _copies(candidates)
    stars = [one.listed.id for one in candidates if one.listed.ground_truth]
    starred = {*stars, *(copies.get(number, number) for number in stars)}
    ranked = sorted(candidates, key=lambda one: one.order(starred), reverse=True)
    counting = [one for one in ranked if _unusable_reason(one) is None and one.listed.id not in copies]
    if not counting:
        return [], [one.omission(*_unusable_reason(one) or ("", False)) for one in ranked]
    chosen = counting[0]
    place = ranked.index(chosen)
    omissions = []
    for position, one in enumerate(ranked):
        if one is chosen:
            continue
        if one.listed.id in copies:
            omissions.append(one.omission(f"it repeats annotation {copies[one.listed.id]} unchanged", True))
            continue
        unusable = _unusable_reason(one)
        if unusable is None:
            why = "has the ground-truth star" if chosen.listed.id in starred else "is newer"
            omissions.append(one.omission(f"annotation {chosen.listed.id} of the same task {why}", True))
            continue
        reason, expected = unusable
        if not expected and position < place:
            reason = f"{reason}; annotation {chosen.listed.id} counts in its place"
        # What stands behind the one that counts would not count either.
        omissions.append(one.omission(reason, expected or position > place))
    taken, others = _together(chosen.accepted)
    unusable_instances = [
        Omission(one.task_id, one.annotation_id, one.name, one.reason) for one in chosen.unusable
    ]
    return taken, [*omissions, *others, *unusable_instances]


def _unusable_reason(one: _Candidate) -> tuple[str, bool] | None:
    """Why an annotation cannot count, and whether a documented rule says so; ``None`` where it can."""
    if one.listed.cancelled:
        return "skipped by its annotator", True
    if one.accepted:
        return None
    if one.error:
        return one.error, False
    if one.unusable:
        return "; ".join(dict.fromkeys(instance.reason for instance in one.unusable)), False
    if one.corrections:
        return "rejected by its annotator", True
    return "it was not read yet", False


def _copies(candidates: Iterable[_Candidate]) -> dict[int, int]:
    """By number of an annotation that repeats one that can be used, that one's number."""
    able = [one for one in candidates if not one.listed.cancelled]
    usable = {one.listed.id for one in able if _unusable_reason(one) is None}
    first = originals(
        ShownAnnotation(
            one.listed.id,
            one.listed.task_id,
            one.listed.ground_truth,
            one.listed.content,
            usable=one.listed.id in usable,
        )
        for one in able
    )
    return {copy: original for copy, original in first.items() if copy != original and original in usable}


def _together(corrections: Sequence[Correction]) -> tuple[list[Correction], list[Omission]]:
    """The instances that share their frames with the first; a task may have pages and a video."""
    kept = [one for one in corrections if _frames_of(one) == _frames_of(corrections[0])]
    others = [
        Omission(
            one.task_id,
            one.annotation_id,
            one.object,
            f"its frames are not those of {kept[0].object!r} ({_described(one)} in place of "
            f"{_described(kept[0])}), and the objects of a task share their frames in an export",
        )
        for one in corrections
        if one not in kept
    ]
    return kept, others


def _frames_of(correction: Correction) -> tuple[str, str, int, int, int]:
    return (
        correction.side,
        correction.media_digest,
        correction.num_frames,
        correction.height,
        correction.width,
    )


def _described(correction: Correction) -> str:
    kind = "pages" if correction.side == "frames" else "frames of the video"
    return f"{correction.num_frames} {kind} of {correction.width} x {correction.height}"
