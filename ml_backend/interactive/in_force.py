"""The expressions in force: what each instance of a task was asked for last, as the expression field holds it.

Label Studio adds each typed text to those before it. Without a word from the backend, an annotation would keep all
that was tried, and commands as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.interactive.state import EMPTY_MASK, InstanceState, TaskState, mask_digest
from steerseg.words.counting import instances_meant


def texts_in_force(task: TaskState, names: Sequence[str]) -> tuple[str, ...]:
    """One text for each expression in force, as somebody could type it; the one of the first instance comes last.

    Args:
        task: The state of the task.
        names: The names of the instances.
    """
    first: dict[str, int] = {}
    for index, instance in sorted(task.instances.items()):
        if instance.expression and is_visible(instance):
            first.setdefault(instance.expression, index)
    if list(first.values()) == [0]:
        return tuple(first)
    known = [(index, text) for text, index in first.items() if index < len(names)]
    return tuple(f"{names[index]}: {text}" for index, text in sorted(known, reverse=True))


def is_visible(instance: InstanceState) -> bool:
    """Whether an instance has a mask on any page."""
    masks = (*instance.masks, *instance.painted.values())
    return any(mask_digest(mask) != EMPTY_MASK for mask in masks)


def made_together(task: TaskState, index: int) -> tuple[InstanceState, ...]:
    """The other instances of the expression that made an instance, where that is the first of them."""
    first = task.instances.get(index)
    if first is None or instances_meant(first.expression) is None:
        return ()
    expression = first.expression.casefold()
    others = [
        other
        for other in task.instances.values()
        if other.index != index and other.expression.casefold() == expression and is_visible(other)
    ]
    return tuple(others) if all(other.index > index for other in others) else ()
