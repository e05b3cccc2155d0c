"""What an annotator is told about a proposal: one line of text beside the task."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.interactive.request import Mark
from ml_backend.interactive.state import InstanceState
from ml_backend.predictions.messages import frame_ranges
from steerseg.masks import RLE, mask_area


def describe_tracked(
    steered: InstanceState, shown: Sequence[RLE], *, kept_track: bool, unused: Sequence[int] = ()
) -> str:
    """What is told of an object that was clicked, boxed or painted.

    Args:
        steered: The object.
        shown: One mask per frame.
        kept_track: Whether what was tracked before took part.
        unused: Frames whose clicks told nothing.
    """
    hidden = [t for t, rle in enumerate(shown) if mask_area(rle) == 0]
    name = f"“{steered.expression}”" if steered.expression else steered.label
    text = f"Tracked {name} on {len(shown) - len(hidden)} of {len(shown)} frames"
    text += f"; not visible on {frame_ranges(hidden)}. " if hidden else ". "
    text += f"It follows {_marks_in_words(steered)}."
    if steered.painted:
        kept = frame_ranges(sorted(steered.painted))
        text += (
            f" Kept as you made it: frame {kept}."
            if len(steered.painted) == 1
            else f" Kept as you made them: frames {kept}."
        )
    if steered.track and not kept_track:
        text += " That is something else than was tracked before, which is left out."
    if unused:
        frames = frame_ranges(sorted(unused))
        text += f" On frame {frames} there was nothing to take away from: click on the object itself."
    return text


def describe_no_object(steered: InstanceState, marks: Sequence[Mark]) -> str:
    """What is told where marks lead to nothing at all, and are forgotten again."""
    what = "box" if marks[-1].kind == "box" else "click"
    name = f"“{steered.expression}”" if steered.expression else steered.label
    return (
        f"Nothing that can be tracked is at this {what} on frame {marks[-1].frame + 1}; {name} stays as it was. "
        "Click into the middle of the object, or draw a box around it."
    )


def _marks_in_words(steered: InstanceState) -> str:
    clicks = [mark for mark in steered.marks if mark.kind == "click"]
    boxes = len(steered.marks) - len(clicks)
    off = sum(not mark.positive for mark in clicks)
    parts = [_counted(len(clicks) - off, "click", "clicks")] if len(clicks) > off else []
    parts += [_counted(off, "click", "clicks") + " off it"] if off else []
    parts += [_counted(boxes, "box", "boxes")] if boxes else []
    parts += (
        [_counted(len(steered.fixed_masks), "frame of yours", "frames of yours")]
        if steered.fixed_masks
        else []
    )
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
