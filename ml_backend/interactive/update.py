"""Steps from a request and the draft beside it to the state of the task, without model or database."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ml_backend.interactive.mask_regions import MaskRegions
from ml_backend.interactive.request import InteractiveRequest, Prompt
from ml_backend.interactive.state import EMPTY_MASK, InstanceState, TaskState, mask_digest
from steerseg.masks import RLE, is_foreground, merge_rles


class RequestKind(enum.StrEnum):
    """The kind of an interactive request."""

    TEXT = "text"
    PROMPTS = "prompts"


@dataclass(frozen=True)
class StateUpdate:
    """A request, applied to the state of its task.

    Attributes:
        kind: The kind of the request.
        index: The instance that it is about.
        task: The state from now on.
    """

    kind: RequestKind
    index: int
    task: TaskState


def apply_request(
    task: TaskState, request: InteractiveRequest, draft: MaskRegions | None, labels: Sequence[str]
) -> StateUpdate:
    """Apply a request to the state of a task.

    Label Studio sends the chosen instance with a text. For clicks and boxes, the draft names it, seconds late. So a
    prompt beside the active instance that lies on another one is about that one.

    Args:
        task: The state.
        request: The request; there is something to do in it.
        draft: The draft beside it.
        labels: The labels of the instances, in their order.
    """
    task = apply_draft(task, draft)
    if not request.prompts:
        chosen = request.chosen_label
        index = labels.index(chosen) if chosen in labels else task.active_index
        task = replace(task, active_index=index, chosen_label=chosen or task.chosen_label)
        return StateUpdate(RequestKind.TEXT, index, task)
    chosen = "" if draft is None else draft.chosen_label
    if request.prompt_label in labels:
        index = labels.index(request.prompt_label)
    elif chosen in labels and chosen != task.chosen_label:
        index = labels.index(chosen)
    else:
        index = _instance_under(task, request.prompts[-1])
    task = replace(task, active_index=index, chosen_label=chosen or task.chosen_label)
    return StateUpdate(RequestKind.PROMPTS, index, task)


def _instance_under(task: TaskState, prompt: Prompt) -> int:
    """The instance that a prompt lies on; the active one where it lies on that one, or on none."""
    x, y = prompt.x + prompt.width / 2, prompt.y + prompt.height / 2

    def is_under(instance: InstanceState) -> bool:
        mask = instance.painted.get(prompt.frame)
        if mask is None and prompt.frame < len(instance.masks):
            mask = instance.masks[prompt.frame]
        if mask is None:
            return False
        height, width = mask["size"]
        return is_foreground(mask, min(int(y * height), height - 1), min(int(x * width), width - 1))

    hit = [index for index, instance in sorted(task.instances.items()) if is_under(instance)]
    return task.active_index if not hit or task.active_index in hit else hit[0]


def is_current(draft: MaskRegions | None, task: TaskState) -> bool:
    """Whether a draft is younger than the last answer, which is so where it shows that answer's message."""
    return draft is not None and bool(task.message) and draft.status == task.message


def apply_draft(task: TaskState, draft: MaskRegions | None) -> TaskState:
    """The state with what the annotator painted, erased, removed or deleted since.

    A draft may be older than the last answer. Only in a younger one does a missing region mean that the annotator
    removed it.
    """
    if draft is None:
        return task
    current = is_current(draft, task)
    for index, instance in list(task.instances.items()):
        missing = current and bool(instance.visible_pages) and not draft.instances.get(index)
        if missing and not draft.drawn_for(index, instance.label):
            task = task.without_instance(index)
        else:
            task = task.with_instance(apply_drawn_pages(instance, draft, current=current))
    return task


def apply_drawn_pages(instance: InstanceState, draft: MaskRegions, *, current: bool) -> InstanceState:
    """An instance with the pages that the annotator made, which are those that no answer gave.

    Args:
        instance: The instance.
        draft: The regions on the pages.
        current: Whether the draft is younger than the last answer.
    """
    own = draft.instances.get(instance.index, {})
    drawn = draft.drawn_for(instance.index, instance.label)
    painted, assigned = dict(instance.painted), set(instance.assigned)
    if current:  # what was removed stays so until a region is there again
        painted = {
            page: mask
            for page, mask in painted.items()
            if page in assigned or (mask is None and page not in own)
        }
    for page, mask in own.items():
        digest = mask_digest(mask)
        if digest not in instance.answered.get(page, ()):
            painted[page] = None if digest == EMPTY_MASK else mask
            assigned.discard(page)
        elif page in assigned:
            if current and digest != mask_digest(painted.get(page)):  # the command was undone
                painted.pop(page, None)
        elif page not in drawn:
            painted.pop(page, None)
    if current:
        painted |= {page: None for page in instance.visible_pages - own.keys()}
    for page, mask in drawn.items():
        together = _union(mask, own[page]) if page in own else mask
        assigned.discard(page)
        painted[page] = None if mask_digest(together) == EMPTY_MASK else together
    return replace(
        instance, painted=dict(sorted(painted.items())), assigned=frozenset(assigned & painted.keys())
    )


def instance_from_regions(
    index: int, label: str, pages: int, draft: MaskRegions | None, predictions: Sequence[MaskRegions]
) -> InstanceState:
    """The state of an instance that is not known yet, from the regions on the pages.

    It begins as the prediction that the draft is nearest to, or as the newest one where there is no draft. Pages that
    differ from every prediction are the annotator's. Where most pages differ, the draft itself is the track.

    Args:
        index: Its index.
        label: Its label.
        pages: T.
        draft: The draft beside the call.
        predictions: The stored predictions, the newest last.
    """
    drawn = None if draft is None else draft.instances.get(index)
    offered = [prediction for prediction in predictions if prediction.instances.get(index)]

    def agreeing_pages(prediction: MaskRegions) -> int:
        masks = prediction.instances[index]
        return sum(mask_digest(masks.get(page)) == mask_digest(mask) for page, mask in (drawn or {}).items())

    instance = InstanceState(index, label)
    for prediction in offered:
        instance = instance.with_answered(dict(prediction.instances[index]))
    best = max(enumerate(offered), key=lambda pair: (agreeing_pages(pair[1]), pair[0]), default=None)
    source = None if best is None else best[1]
    if drawn and draft is not None and (source is None or 2 * agreeing_pages(source) < len(drawn)):
        source = draft
        instance = instance.with_answered(dict(drawn))
    if source is not None:
        track = _by_page(source.instances[index], pages)
        instance = replace(
            instance,
            expression=source.expressions.get(index, ""),
            label=source.labels.get(index, label),
            track=track,
            masks=track,
        )
    return instance if draft is None else apply_drawn_pages(instance, draft, current=bool(drawn))


def _by_page(masks: Mapping[int, RLE], pages: int) -> tuple[RLE | None, ...]:
    return tuple(masks.get(page) for page in range(pages))


def _union(a: RLE, b: RLE) -> RLE:
    return a if a["size"] != b["size"] else merge_rles([a, b])
