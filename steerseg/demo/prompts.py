"""The demo model's prompt texts: the product asks with them, and training teaches exactly them.

In every pass the vision (all keyframes as one video, or one keyframe as an image) comes first in the user
turn and one of these texts follows it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence


def reasoning_text(expression: str) -> str:
    """User text of the chain-of-thought pass. Its answer is :func:`reasoning_answer`."""
    return f"Expression: {expression}\nAttributes?"


def reasoning_answer(attributes: Sequence[str]) -> str:
    """Answer of the chain-of-thought pass: JSON, the object's name first."""
    return json.dumps({"attributes": list(attributes)}, ensure_ascii=False)


def grounding_text(expression: str, attributes: Sequence[str] = ()) -> str:
    """User text of a grounding pass. Its answer is the bare name of the object.

    Args:
        expression: The annotator's text.
        attributes: Answer of the chain-of-thought pass; empty without reasoning, and the line is absent.
    """
    line = f"Attributes: {', '.join(attributes)}\n" if attributes else ""
    return f"Expression: {expression}\n{line}What is the main object?"


def where_text(expression: str, attributes: Sequence[str] = (), moment: int | None = None) -> str:
    """User text of the localisation task (training only). Its answer is :func:`where_answer`.

    Args:
        expression: The annotator's text.
        attributes: As in :func:`grounding_text`.
        moment: Frame pair of a video pass, from 1; None for an image.
    """
    line = f"Attributes: {', '.join(attributes)}\n" if attributes else ""
    question = "Where?" if moment is None else f"Where at {moment}?"
    return f"Expression: {expression}\n{line}{question}"


def position_text(x: float, y: float) -> str:
    """A position as percentages of width and height in steps of five, two digits each."""
    return f"{_percent(x)},{_percent(y)}"


def where_answer(centre: tuple[float, float], size: tuple[float, float]) -> str:
    """Answer of the localisation task: centre and size as percentages of the picture, "45,25 10,20"."""
    return f"{position_text(*centre)} {position_text(*size)}"


def at_text(centre: tuple[float, float], question: str, moment: int | None = None) -> str:
    """User text of the inverse of the localisation task (training only): a position is given.

    Args:
        centre: Centre of an object in [0, 1], x first.
        question: "Attributes?" or "What is the main object?".
        moment: As in :func:`where_text`.
    """
    when = "" if moment is None else f" at {moment}"
    return f"Place: {position_text(*centre)}{when}\n{question}"


def _percent(value: float) -> str:
    return f"{min(max(round(value * 20), 0), 19) * 5:02d}"
