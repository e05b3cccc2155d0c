"""Texts for annotators about their clicks, boxes and painted pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ml_backend.interactive.in_force import is_visible
from ml_backend.interactive.request import Prompt
from ml_backend.interactive.state import InstanceState
from ml_backend.language.commands import instance_title
from ml_backend.predictions.messages import capitalised, frame_ranges, joined
from ml_backend.proposals import StoredProposal
from steerseg.masks import RLE, mask_area

NOTHING_PAINTED = (
    "No painted frame has arrived yet. Label Studio saves strokes five seconds after the last one; "
    "type “go” again then."
)


def describe_tracked(
    title: str,
    instance: InstanceState,
    masks: Sequence[RLE],
    *,
    kept_track: bool,
    unused: Sequence[int] = (),
) -> str:
    """Describe the track of an instance that was clicked, boxed or painted.

    Args:
        title: The instance as annotators call it.
        instance: The instance.
        masks: One mask per frame.
        kept_track: Whether the track before took part.
        unused: Frames whose clicks had no effect.
    """
    hidden = [t for t, mask in enumerate(masks) if mask_area(mask) == 0]
    meant = f" ({instance.expression})" if instance.expression else ""
    text = f"{capitalised(title)}{meant} is tracked on {len(masks) - len(hidden)} of {len(masks)} frames"
    text += f"; not visible on {frame_ranges(hidden)}. " if hidden else ". "
    text += f"{_describe_prompts(instance)}."
    if instance.painted:
        text += f" {_describe_painted(instance)}."
    if instance.track and not kept_track:
        text += " The clicks and boxes show another object than the track before, so that track was left out."
    if unused:
        text += (
            f" The clicks on frame {frame_ranges(sorted(unused))} had no effect, since no mask is there. "
            "Click on the object itself."
        )
    return text


def describe_no_object(title: str, prompts: Sequence[Prompt]) -> str:
    """Describe prompts that lead to no object, and are forgotten again."""
    kind = prompts[-1].kind
    return (
        f"No object was found at the {kind} on frame {prompts[-1].frame + 1}, so {title} stays as it was. "
        "Click into the middle of the object, or draw a box around it."
    )


def describe_replaced(expression: str, replaced: Mapping[int, InstanceState], names: Sequence[str]) -> str:
    """Describe the instances that an expression replaces, such as ``This replaces object 1 (the dog).``.

    Args:
        expression: The expression.
        replaced: By index, the instances as they were.
        names: The names of instances.

    Returns:
        The text; empty where the expression replaces nothing, or only what itself had made.
    """
    others: dict[str, list[str]] = {}
    for index, instance in sorted(replaced.items()):
        if is_visible(instance) and instance.expression.casefold() != expression.casefold():
            others.setdefault(instance.expression, []).append(instance_title(index, names))
    parts = [joined(titles) + (f" ({text})" if text else "") for text, titles in others.items()]
    return f"This replaces {joined(parts)}." if parts else ""


def describe_kept_pages(instance: InstanceState) -> str:
    """Describe painted pages that show another object than the expression; empty without painted pages."""
    if not instance.painted:
        return ""
    return (
        f"{_describe_painted(instance)}. The other frames follow the expression, which means another object."
    )


def describe_missing_candidate(pick: int, expression: str, proposal: StoredProposal) -> str:
    """Describe the candidates that there are, where an annotator chose another number.

    Args:
        pick: The number that was chosen, from 1.
        expression: The expression of the proposal.
        proposal: The proposal.
    """
    count = len(proposal.tracklets)
    if count > 1:
        offer = f"its candidates are #1 to #{count}"
    else:
        offer = "its only candidate is #1" if count else "it has no candidates"
    return f"There is no #{pick} for “{expression}”: {offer}."


def _describe_prompts(instance: InstanceState) -> str:
    """The clicks, boxes and painted frames, such as ``2 clicks: 1 on the object, 1 beside it; 1 box``."""
    clicks = [prompt for prompt in instance.prompts if prompt.kind == "click"]
    beside = sum(not click.positive for click in clicks)
    parts = []
    if clicks:
        text = _counted(len(clicks), "click")
        if beside == len(clicks):
            text += " beside the object"
        elif beside:
            text += f": {len(clicks) - beside} on the object, {beside} beside it"
        else:
            text += " on the object"
        parts.append(text)
    boxes = len(instance.prompts) - len(clicks)
    if boxes:
        parts.append(_counted(boxes, "box", "boxes"))
    if instance.painted_masks:
        parts.append(_counted(len(instance.painted_masks), "painted frame"))
    return "; ".join(parts)


def _describe_painted(instance: InstanceState) -> str:
    frames = frame_ranges(sorted(instance.painted))
    if len(instance.painted) == 1:
        return f"Frame {frames} stays as you left it"
    return f"Frames {frames} stay as you left them"


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
