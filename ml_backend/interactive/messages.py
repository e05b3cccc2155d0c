"""Texts for annotators about their clicks, boxes and painted pages."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.interactive.request import Prompt
from ml_backend.interactive.state import InstanceState
from ml_backend.predictions.messages import frame_ranges
from ml_backend.proposals import StoredProposal
from steerseg.masks import RLE, mask_area


def describe_tracked(
    instance: InstanceState, masks: Sequence[RLE], *, kept_track: bool, unused: Sequence[int] = ()
) -> str:
    """Describe the track of an instance that was clicked, boxed or painted.

    Args:
        instance: The instance.
        masks: One mask per frame.
        kept_track: Whether the track before took part.
        unused: Frames whose clicks had no effect.
    """
    hidden = [t for t, mask in enumerate(masks) if mask_area(mask) == 0]
    text = f"Tracked {_name(instance)} on {len(masks) - len(hidden)} of {len(masks)} frames"
    text += f"; not visible on {frame_ranges(hidden)}. " if hidden else ". "
    text += f"It has {_describe_prompts(instance)}."
    if instance.painted:
        text += f" {_describe_painted(instance)}."
    if instance.track and not kept_track:
        text += " The prompts show another object than the track before, so that track was left out."
    if unused:
        text += (
            f" The clicks on frame {frame_ranges(sorted(unused))} had no effect, since no mask is there. "
            "Click on the object itself."
        )
    return text


def describe_no_object(instance: InstanceState, prompts: Sequence[Prompt]) -> str:
    """Describe prompts that lead to no object, and are forgotten again."""
    kind = prompts[-1].kind
    return (
        f"No object was found at the {kind} on frame {prompts[-1].frame + 1}, so {_name(instance)} stays as it was. "
        "Click into the middle of the object, or draw a box around it."
    )


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


def _name(instance: InstanceState) -> str:
    return f"“{instance.expression}”" if instance.expression else instance.label


def _describe_prompts(instance: InstanceState) -> str:
    """The number of clicks, boxes and painted frames, such as ``2 clicks (1 on the object, 1 beside it) and 1 box``."""
    clicks = [prompt for prompt in instance.prompts if prompt.kind == "click"]
    beside = sum(not click.positive for click in clicks)
    parts = []
    if clicks:
        text = _counted(len(clicks), "click")
        if beside == len(clicks):
            text += " beside the object"
        elif beside:
            text += f" ({len(clicks) - beside} on the object, {beside} beside it)"
        parts.append(text)
    boxes = len(instance.prompts) - len(clicks)
    if boxes:
        parts.append(_counted(boxes, "box", "boxes"))
    if instance.painted_masks:
        parts.append(_counted(len(instance.painted_masks), "painted frame"))
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _describe_painted(instance: InstanceState) -> str:
    frames = frame_ranges(sorted(instance.painted))
    if len(instance.painted) == 1:
        return f"Frame {frames} stays as you left it"
    return f"Frames {frames} stay as you left them"


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
