"""Which annotations repeat others, and which corrections a refinement may learn from.

An unchanged copy of an annotation counts as that one: it says nothing of its own, however new it is. The choice of the
one annotation of a task that an export takes is in :mod:`ml_backend.exporting.selection`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ml_backend.corrections.records import Correction


@dataclass(frozen=True)
class ShownAnnotation:
    """What an annotation shows, as far as copies are recognized.

    Attributes:
        id: Its number in Label Studio.
        task_id: Task in Label Studio.
        ground_truth: Whether it carries Label Studio's star.
        content: Hash of what it shows; empty where that is not known, and then it repeats nothing.
        usable: Whether there is something in it that counts.
    """

    id: int
    task_id: int
    ground_truth: bool
    content: str
    usable: bool = True


def originals(annotations: Iterable[ShownAnnotation]) -> dict[int, int]:
    """The annotation that each stands for, by number: itself, or the one that it repeats unchanged.

    Of the annotations of a task that show the same, a usable one comes first, then one with the star, then the oldest.
    """
    first: dict[tuple[int, str], int] = {}
    found = {}
    for one in sorted(annotations, key=lambda one: (not one.usable, not one.ground_truth, one.id)):
        found[one.id] = first.setdefault((one.task_id, one.content), one.id) if one.content else one.id
    return found


def teaching(corrections: Sequence[Correction]) -> tuple[list[Correction], tuple[str, ...]]:
    """The corrections that a refinement may learn from, and a line for each reason why others are left out.

    Args:
        corrections: All usable corrections of a project.
    """
    starred = {one.task_id for one in corrections if one.ground_truth}
    first = originals(
        ShownAnnotation(one.annotation_id, one.task_id, one.ground_truth, one.content) for one in corrections
    )
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


def _reason(one: Correction, starred: set[int], first: Mapping[int, int]) -> str | None:
    if not one.expression:
        return "they have no expression of their own"
    if first[one.annotation_id] != one.annotation_id:
        return "their annotation is an unchanged copy of another one"
    beside = one.task_id in starred and not one.ground_truth
    return "another annotation of their task carries the ground-truth star" if beside else None
