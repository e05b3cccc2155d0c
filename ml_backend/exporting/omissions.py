"""What an export leaves out, with the reason. Nothing is left out without one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Omission:
    """Something of a project that is not in a dataset.

    Attributes:
        task_id: Task in Label Studio; 0 where it is about the whole project.
        annotation_id: Annotation in Label Studio; ``None`` where it is about the whole task.
        instance: The annotation's instance; empty where it is about the whole annotation.
        reason: Why, for a person.
        expected: Whether a documented rule leaves it out, such as a rejection or a skip. Whatever else is missing
            makes the dataset incomplete.
    """

    task_id: int
    annotation_id: int | None
    instance: str
    reason: str
    expected: bool = False

    def __str__(self) -> str:
        if not self.task_id:
            return self.reason
        annotation = "" if self.annotation_id is None else f", annotation {self.annotation_id}"
        instance = f", {self.instance!r}" if self.instance else ""
        return f"task {self.task_id}{annotation}{instance}: {self.reason}"


def is_complete(omissions: Iterable[Omission]) -> bool:
    """Whether nothing is missing but what documented rules leave out."""
    return all(omission.expected for omission in omissions)
