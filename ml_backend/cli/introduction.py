"""What a connected project shows its annotators: a description, instructions, and a list of tasks with pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.task_media import FIRST_FRAME_KEY, STRIDE_KEY

_NUMBERS = ("fps", "pts", STRIDE_KEY, FIRST_FRAME_KEY)
"""Data of tasks that says nothing to a person who looks for one."""

_TOGGLES = "Auto-Annotation and Auto-Accept Suggestions"


def switches(controls: Controls) -> str:
    """What annotators switch on once, as a sentence; empty where nothing has to be."""
    if controls.frames is None:
        return ""
    return (
        f"Switch on {_TOGGLES} below the picture. "
        "Label Studio keeps both in your browser: no project can preset them."
    )


def description(controls: Controls, reads_expressions: bool = True) -> str:
    """The project's description, which Label Studio shows in its list of projects.

    Args:
        controls: The controls of the project.
        reads_expressions: Whether the backend has a language model.
    """
    if controls.frames is None:
        begin = "Type what to track" if reads_expressions else "Draw a box around the object"
        return f"{begin}, correct the boxes, submit."
    begin = "Type what to track" if reads_expressions else "Click the object, or draw a box around it"
    return f"{begin}, correct the masks, submit. {switches(controls)}"


def instructions(controls: Controls, reads_expressions: bool = True) -> str:
    """The project's instructions, HTML that Label Studio shows on request.

    Args:
        controls: The controls of the project.
        reads_expressions: Whether the backend has a language model.
    """
    steps = []
    if reads_expressions:
        steps.append(
            "Type what to track and press Enter, for example <i>the dog on the left</i> or <i>the two dogs</i>."
        )
    if controls.frames is not None:
        steps = [
            switches(controls),
            *steps,
            "Click on an object, or beside it: press 5 or 6, then M, and click. The other frames follow.",
            "Paint or erase, and type <i>go</i> five seconds later. The other frames follow.",
        ]
    if controls.video is not None:
        steps.append(
            "Draw a box on the video and give it a label, or type <i>go</i> beside it. It is tracked."
        )
    steps.append("Choose a verdict, and submit.")
    return f"<ol>{''.join(f'<li>{step}</li>' for step in steps)}</ol>"


def task_list(controls: Controls, columns: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A view of the tasks with a picture of each, in place of the addresses of its frames.

    Args:
        controls: The controls of the project.
        columns: The columns that the Data Manager has now.
    """
    hidden: dict[str, list[str]] = {"explore": [], "labeling": []}
    for column in columns:
        name = ".".join(str(part) for part in (column.get("parent"), column.get("id")) if part)
        for place, visible in (column.get("visibility_defaults") or {}).items():
            if place in hidden and not visible:
                hidden[place].append(f"tasks:{name}")
    data = [f"tasks:data.{key}" for key in _NUMBERS]
    hidden["explore"] += data
    pictures = []
    if controls.frames is not None:
        pictures = [f"tasks:data.{controls.frames.data_key}"]
        hidden["labeling"] += [*data, "tasks:data.source"]
    return {
        "title": "Default",
        "type": "list",
        "target": "tasks",
        "hiddenColumns": {place: list(dict.fromkeys(names)) for place, names in hidden.items()},
        "columnsDisplayType": dict.fromkeys(pictures, "Image"),
        "columnsWidth": dict.fromkeys(pictures, 150),
    }
