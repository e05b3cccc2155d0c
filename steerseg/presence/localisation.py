"""Expression -> positions: the frozen LVLM says where the object is, as a check on what its attention points at.

The method has no such step (our choice). Attention may lie on another object than the one that the model means; where
it says the object to be tells them apart. No soft prompt takes part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steerseg.reasoning import PromptTexts, expression_as

if TYPE_CHECKING:  # a server reads this module's data without loading the models
    from steerseg.config import PipelineConfig
    from steerseg.lvlm.base import LVLM, VisionFeatures
    from steerseg.lvlm.prefix import PrefixSlot

TOLERANCE = 0.12
"""Distance at which agreement has fallen to 0.61, as a share of the frame's width and height (our choice)."""

_TOKENS_PER_MOMENT = 16
_STATEMENT = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*,\s*(\d{1,3}(?:\.\d+)?)|hidden|null|none", re.IGNORECASE)


@dataclass(frozen=True)
class Positions:
    """Where the LVLM says that an object is.

    Attributes:
        centres: (x, y) of its centre in [0, 1] of width and height, one for each slice of the video pass; ``None``
            where it is said to be hidden.
    """

    centres: tuple[tuple[float, float] | None, ...]


def read_positions(answer: str, moments: int) -> Positions | None:
    """Read an answer such as ``"10,35 15,40 hidden 20,40"`` or ``[[10, 35], null]``.

    Args:
        answer: Percentages of width and height, one pair for each moment.
        moments: How many were asked for.

    Returns:
        The positions; ``None`` where the answer does not state as many, or states none that is inside the frame.
    """
    centres: list[tuple[float, float] | None] = []
    for statement in _STATEMENT.finditer(answer):
        x, y = statement.groups()
        centres.append(None if x is None else (float(x) / 100, float(y) / 100))
    if len(centres) != moments or any(max(centre) > 1 for centre in centres if centre is not None):
        return None
    return Positions(tuple(centres))


def locate(
    lvlm: LVLM,
    video: VisionFeatures,
    expression: str,
    attributes: tuple[str, ...],
    texts: PromptTexts,
    config: PipelineConfig,
    *,
    moments: int,
    prefix: PrefixSlot | None = None,
) -> Positions | None:
    """Ask the frozen model where the object of an expression is.

    Args:
        lvlm: The frozen model.
        video: The keyframes as one video, as its vision tower encoded them.
        expression: The annotator's text.
        attributes: Of the chain-of-thought step; may be empty.
        texts: The questions.
        config: How the expression stands in the question.
        moments: Slices of the video pass.
        prefix: Keeps what does not depend on the expression; nothing is kept where left out.
    """
    asked = expression_as(config.expression_form, expression)
    answer = lvlm.answer(
        texts.localisation_question(asked, attributes, moments),
        video,
        max_new_tokens=_TOKENS_PER_MOMENT * moments,
        prefix=prefix,
    )
    return read_positions(answer.text, moments)


def agreement(masks: torch.Tensor, positions: Positions, temporal_merge: int) -> torch.Tensor:
    """How far tracklets are where the LVLM says that the object is.

    Args:
        masks: (N, K, h, w) masks of N tracklets on the keyframes, in [0, 1].
        positions: For each slice of ``temporal_merge`` keyframes.
        temporal_merge: Frames of a video slice.

    Returns:
        (N,) float32 in [0, 1]: the mean over slices of a bell curve over the distance from the stated position to the
        centre of the mask's box. A slice in which the tracklet or the object is hidden counts 0, and 1 where both are.
    """
    found = box_centres(masks > 0.5)
    grades: list[torch.Tensor] = []
    for moment, stated in enumerate(positions.centres):
        centres = found[:, moment * temporal_merge : (moment + 1) * temporal_merge].nanmean(dim=1)
        hidden = centres.isnan().any(dim=1)
        if stated is None:
            grades.append(hidden.float())
            continue
        distance = (centres - centres.new_tensor(stated)).norm(dim=1)
        bell = torch.exp(-0.5 * (distance / TOLERANCE) ** 2)
        grades.append(torch.where(hidden, torch.zeros_like(bell), bell))
    return torch.stack(grades).mean(dim=0)


def box_centres(masks: torch.Tensor) -> torch.Tensor:
    """Centres (N, K, 2) of the boxes of bool masks (N, K, h, w), in [0, 1]; NaN where a mask is empty."""
    sides: list[torch.Tensor] = []
    for lines in (masks.any(dim=2), masks.any(dim=3)):  # columns, rows
        length = lines.shape[-1]
        first = lines.float().argmax(dim=-1)
        last = length - lines.flip(-1).float().argmax(dim=-1)
        middle = (first + last).float() / (2 * length)
        sides.append(torch.where(lines.any(dim=-1), middle, middle.new_full((), torch.nan)))
    return torch.stack(sides, dim=-1)
