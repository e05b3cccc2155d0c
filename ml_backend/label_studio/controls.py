"""The controls of a labelling configuration that proposals, prompts and messages use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ml_backend.label_studio.task import task_value

MaskKind = Literal["brush", "bitmask", "polygon", "vector"]

DEFAULT_FRAME_RATE = 24.0
"""What Label Studio assumes where ``<Video>`` has no usable ``frameRate``."""


@dataclass(frozen=True)
class MaskControl:
    """A control that holds one mask a region.

    Attributes:
        kind: What a region's value is made of.
        name: The control's name (``from_name`` of its results).
        labels: Its labels, in order; empty only for a bare ``<Brush>`` or the like without ``<Labels>``.
        labels_name: For a pair such as ``<Brush>`` + ``<Labels>``: the name of the ``<Labels>`` control,
            whose result stands beside the geometry under the same id. ``None`` for ``BrushLabels`` and such.
        combined: Whether geometry and label are one result (``BrushLabels``, ``PolygonLabels``, ...).
    """

    kind: MaskKind
    name: str
    labels: tuple[str, ...]
    labels_name: str | None = None
    combined: bool = True

    @property
    def result_type(self) -> str:
        """The ``type`` of the control's results, such as ``brushlabels`` or ``brush``."""
        return f"{self.kind}labels" if self.combined else self.kind


@dataclass(frozen=True)
class PromptControl:
    """``KeyPointLabels`` or ``RectangleLabels`` (or the bare tags) on the frames: where annotators prompt.

    Attributes:
        smart: Whether a new region asks the backend at all (``smart`` is true unless switched off).
    """

    kind: Literal["keypoint", "rectangle"]
    name: str
    labels: tuple[str, ...]
    smart: bool


@dataclass(frozen=True)
class ChoicesControl:
    """``<Choices>`` for the whole task, such as the annotator's verdict."""

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class TaskControls:
    """Controls that belong to an object as a whole.

    Attributes:
        expression: Name of the ``<TextArea>`` that annotators type the expression into.
        status: Name of the ``<TextArea>`` that shows the backend's messages to annotators.
        region_text: Name of the per-region ``<TextArea>``; its texts are echoed when a region is replaced.
        verdict: The choices of the whole task.
        object: The choices that select the instance which a prompt is about: those that are all labels of masks.
    """

    expression: str | None = None
    status: str | None = None
    region_text: str | None = None
    verdict: ChoicesControl | None = None
    object: ChoicesControl | None = None


@dataclass(frozen=True)
class FramesSide:
    """``<Image valueList="$...">`` and what points to it.

    Attributes:
        name: The object's name (``to_name`` of results).
        data_key: Key of the task's data with the list of pages.
        mask: The control that gets the predictions.
        masks: Every usable mask control, preferred first; corrections may come from any of them.
        click: Point prompts, if the configuration has them.
        box: Box prompts, if the configuration has them.
    """

    name: str
    data_key: str
    mask: MaskControl
    masks: tuple[MaskControl, ...]
    click: PromptControl | None
    box: PromptControl | None
    task: TaskControls


@dataclass(frozen=True)
class VideoSide:
    """``<Video value="$...">`` and what points to it.

    Attributes:
        name: The object's name (``to_name`` of results).
        data_key: Key of the task's data with the video's address.
        box: Name of the ``VideoRectangle`` control.
        labels: Labels of the ``<Labels>`` control beside it; empty without one.
        labels_name: Its name.
        frame_rate: A number written into the configuration, or ``None``.
        frame_rate_key: Key of the task's data that ``frameRate="$..."`` names, or ``None``.
    """

    name: str
    data_key: str
    box: str
    labels: tuple[str, ...]
    labels_name: str | None
    frame_rate: float | None
    frame_rate_key: str | None
    task: TaskControls

    def fps(self, data: Mapping[str, Any]) -> float:
        """The frame rate by which Label Studio numbers this task's frames; 24 where none is given."""
        if self.frame_rate_key is not None:
            value = frame_rate(task_value(data, self.frame_rate_key))
        else:
            value = self.frame_rate
        if value is None:
            return DEFAULT_FRAME_RATE
        return 1.0 / value if value < 1 else value  # below 1 it is taken for the seconds of a frame


@dataclass(frozen=True)
class Controls:
    """The usable sides of a labelling configuration; at least one is there.

    Attributes:
        frames: Pages of a video, with a mask control.
        video: The video itself, with a box control.
    """

    frames: FramesSide | None
    video: VideoSide | None


def choose_label(labels: Sequence[str], expression: str, attributes: Sequence[str] = ()) -> str | None:
    """Choose the label of a proposal; ``None`` where there are no labels.

    It is the first label that stands as a whole word in the expression, else in an attribute, else the first label:
    with labels *dog* and *cat*, "the brown dog" becomes a dog.
    """
    for text in (expression, *attributes):
        for label in labels:
            if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, flags=re.IGNORECASE):
                return label
    return labels[0] if labels else None


def frame_rate(value: Any) -> float | None:
    """A finite number above zero, or ``None``."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
