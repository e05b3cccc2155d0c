"""Instances after a typed command, without model or database: deleted, replaced, merged, swapped or split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ml_backend.interactive.state import InstanceState
from ml_backend.language.commands import Action, Command, FrameRange, instance_title
from ml_backend.predictions.messages import capitalised, frame_ranges
from steerseg.errors import ExpressionError
from steerseg.masks import RLE, merge_rles


@dataclass(frozen=True)
class Edit:
    """What a command did.

    Attributes:
        before: By index, the instances as they were.
        after: By index, the same instances as they are now.
        message: The message for the annotator.
        target: Index of the instance that prompts are about from now on.
    """

    before: Mapping[int, InstanceState]
    after: Mapping[int, InstanceState]
    message: str
    target: int


def apply_command(
    command: Command,
    instances: Mapping[int, InstanceState],
    names: Sequence[str],
    count: int,
    *,
    labels_are_classes: bool,
) -> Edit:
    """Apply a command to instances.

    Args:
        command: The command; the source of a split is known.
        instances: By index, the instances that it names.
        names: The names of the instances.
        count: Pages of the task.
        labels_are_classes: Whether a label goes along with the object that has it.

    Raises:
        ExpressionError: It cannot be followed; the message is for the annotator.
    """
    pages = command.frames.indices(count)
    given = command.target if command.action in (Action.DELETE, Action.SPLIT) else command.source
    assert given is not None
    _require_masks(instances[given], pages, instance_title(given, names), command.frames)
    target = instances[command.target]
    source = None if command.source is None else instances[command.source]
    whole = command.frames.is_whole
    changed: tuple[InstanceState, ...]
    if command.action is Action.DELETE:
        changed = (cleared(target, count) if whole else _hidden(target, pages),)
    elif source is None:
        raise ExpressionError("name two objects")
    elif command.action is Action.REPLACE:
        changed = _replaced(target, source, pages, count, classes=labels_are_classes, whole=whole)
    elif command.action is Action.MERGE:
        together = target.with_assigned(_united(target, source, pages), count)
        changed = (together, cleared(source, count) if whole else _hidden(source, pages))
    elif command.action is Action.SWAP and whole:
        changed = (
            moved(source, target, count, with_label=labels_are_classes),
            moved(target, source, count, with_label=labels_are_classes),
        )
    elif command.action is Action.SWAP:
        changed = (
            target.with_assigned(_shown(source, pages), count),
            source.with_assigned(_shown(target, pages), count),
        )
    else:
        changed = (_hidden(target, pages), source.with_assigned(_shown(target, pages), count))
    after = {instance.index: instance for instance in changed}
    before = {index: instances[index] for index in after}
    return Edit(before, after, _describe(command, names, pages, whole=whole), command.target)


def cleared(instance: InstanceState, count: int) -> InstanceState:
    """An instance of which nothing is left but the knowledge of its earlier answers.

    It stays in the state, so that a submission that holds one of those answers is put right.

    Args:
        instance: The instance.
        count: Pages of the task.
    """
    empty = InstanceState(
        instance.index,
        instance.label,
        masks=(None,) * count,
        scores=(1.0,) * count,
        answered=instance.answered,
    )
    return empty.with_answered(dict.fromkeys(range(count)))


def moved(source: InstanceState, target: InstanceState, count: int, *, with_label: bool) -> InstanceState:
    """An instance in another's place.

    Args:
        source: The instance, with its expression, prompts and painted pages.
        target: The instance whose place it takes.
        count: Pages of the task.
        with_label: Whether it keeps its label.
    """
    masks = tuple(_shown(source, range(count)).values())
    there = replace(
        source,
        index=target.index,
        label=source.label if with_label else target.label,
        masks=masks,
        scores=_padded(source.scores, count),
        answered=target.answered,
        assigned=frozenset(source.painted),
        answer_digest="",
    )
    return there.with_answered(dict(enumerate(masks)))


def _replaced(
    target: InstanceState, source: InstanceState, pages: range, count: int, *, classes: bool, whole: bool
) -> tuple[InstanceState, InstanceState]:
    if whole:
        return moved(source, target, count, with_label=classes), cleared(source, count)
    return target.with_assigned(_shown(source, pages), count), _hidden(source, pages, count)


def _hidden(instance: InstanceState, pages: range, count: int = 0) -> InstanceState:
    return instance.with_assigned(dict.fromkeys(pages), max(count, len(instance.masks)))


def _shown(instance: InstanceState, pages: range) -> dict[int, RLE | None]:
    """By page, what stands there: the annotator's own masks, else the last answer."""
    answers = dict(enumerate(instance.masks))
    return {page: instance.painted.get(page, answers.get(page)) for page in pages}


def _united(target: InstanceState, source: InstanceState, pages: range) -> dict[int, RLE | None]:
    """By page that shows the source, both masks as one."""
    own, other = _shown(target, pages), _shown(source, pages)
    return {
        page: mask if own[page] is None else _union(own[page], mask)
        for page, mask in other.items()
        if mask is not None
    }


def _union(a: RLE | None, b: RLE) -> RLE:
    return b if a is None or a["size"] != b["size"] else merge_rles([a, b])


def _padded(scores: Sequence[float], count: int) -> tuple[float, ...]:
    return (*scores[:count], *(1.0,) * (count - len(scores)))


def _require_masks(instance: InstanceState, pages: range, title: str, frames: FrameRange) -> None:
    if any(mask is not None for mask in _shown(instance, pages).values()):
        return
    where = "" if frames.is_whole else f" {_frames(pages)}"
    raise ExpressionError(f"{title} has no mask{where}, so nothing was changed")


def _frames(pages: range) -> str:
    return f"on frame{'s' if len(pages) > 1 else ''} {frame_ranges(pages)}"


def _describe(command: Command, names: Sequence[str], pages: range, *, whole: bool) -> str:
    target = instance_title(command.target, names)
    source = "" if command.source is None else instance_title(command.source, names)
    where = "" if whole else f" {_frames(pages)}"
    texts = {
        Action.DELETE: f"Deleted {target}{where}.",
        Action.REPLACE: f"{capitalised(target)}{where} is what was {source}.",
        Action.MERGE: f"Merged {source} into {target}{where}.",
        Action.SWAP: f"Swapped {target} and {source}{where}.",
        Action.SPLIT: f"Split {target}: {_frames(pages)} it is {source} now.",
    }
    return texts[command.action]
