"""The controls of a labelling configuration that proposals, prompts and messages use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ml_backend.label_studio.task import task_value

MaskKind = Literal["brush", "bitmask", "polygon", "vector"]

MOST_INSTANCES = 8
"""Instances of a task that have names where the configuration gives none."""

VERDICT_WORDS: Mapping[str, frozenset[str]] = {
    "not visible": frozenset({"not visible", "invisible", "absent", "not there", "not in the video"}),
    "reject": frozenset({"reject", "rejected", "bad", "wrong", "no", "incorrect", "discard"}),
    "accept": frozenset({"accept", "accepted", "good", "right", "yes", "correct", "ok", "okay", "keep"}),
}
"""The words of each verdict. They are a check alone: only a control whose name says so asks for a verdict."""

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
    """``<Choices>`` beside the regions, such as the annotator's verdict.

    Attributes:
        per_item: Whether each page has an answer of its own (``perItem="true"``).
    """

    name: str
    choices: tuple[str, ...]
    per_item: bool = False


@dataclass(frozen=True)
class TaskControls:
    """Controls that belong to an object as a whole.

    Attributes:
        expression: Name of the ``<TextArea>`` that annotators type the expression into.
        status: Name of the ``<TextArea>`` that shows the backend's messages to annotators.
        status_target: The object that it points to; ``None`` for the side's own. Label Studio lists a message that
            points to a ``<Video>`` as a region of the video, and none that points to a ``<Text>``.
        region_text: Name of the per-region ``<TextArea>``; its texts are echoed when a region is replaced.
        verdict: The choices that accept or reject, of the whole task or of each page.
        object: The choices that select the instance which a prompt is about.
    """

    expression: str | None = None
    status: str | None = None
    status_target: str | None = None
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

    @property
    def labels_name_instances(self) -> bool:
        """Whether a label names one object: the choices of *which object* are labels, or all labels are numbered.

        Elsewhere labels are classes, and any number of instances may share one.
        """
        if self.task.object is not None:
            return set(self.task.object.choices) <= set(self.mask.labels)
        return are_numbered(self.mask.labels)

    @property
    def instance_names(self) -> tuple[str, ...]:
        """The names by which annotators choose an instance, in order."""
        if self.labels_name_instances:
            return self.mask.labels
        if self.task.object is not None:
            return self.task.object.choices
        return tuple(str(number) for number in range(1, MOST_INSTANCES + 1))


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
        return self.given_fps(data) or DEFAULT_FRAME_RATE

    def given_fps(self, data: Mapping[str, Any]) -> float | None:
        """The frame rate that the configuration gives this task; ``None`` where it gives none."""
        if self.frame_rate_key is not None:
            value = frame_rate(task_value(data, self.frame_rate_key))
        else:
            value = self.frame_rate
        if value is None:
            return None
        return 1.0 / value if value < 1 else value  # below 1 it is taken for the seconds of a frame


@dataclass(frozen=True)
class Controls:
    """The usable sides of a labelling configuration; at least one is there.

    Attributes:
        frames: Pages of a video, with a mask control.
        video: The video itself, with a box control.
        notes: What in the configuration may be meant otherwise than it is read, for its author.
    """

    frames: FramesSide | None
    video: VideoSide | None
    notes: tuple[str, ...] = ()


def verdict_word(choice: str) -> str | None:
    """The verdict that a choice stands for, a key of :data:`VERDICT_WORDS`; ``None`` for any other choice."""
    text = " ".join(re.split(r"[\s_-]+", choice.strip().casefold()))
    return next((verdict for verdict, known in VERDICT_WORDS.items() if text in known), None)


def are_numbered(labels: Sequence[str]) -> bool:
    """Whether labels are one word with different numbers, such as *object 1* and *object 2*."""
    parts = [re.fullmatch(r"(.*\D)\d+", label) for label in labels]
    return all(parts) and len({part.group(1) for part in parts if part is not None}) == 1


def choose_label(
    labels: Sequence[str], expression: str, attributes: Sequence[str] = (), *, default: bool = True
) -> str | None:
    """Choose the label of a proposal; ``None`` where there are no labels.

    It is the first label that stands as a whole word in the expression, else in an attribute, else the first label:
    with labels *dog* and *cat*, "the brown dog" becomes a dog.

    Args:
        labels: The labels, in their order.
        expression: The expression.
        attributes: Its attributes.
        default: Whether the first label is chosen where none is named.
    """
    for text in (expression, *attributes):
        for label in labels:
            if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, flags=re.IGNORECASE):
                return label
    return labels[0] if labels and default else None


def frame_rate(value: Any) -> float | None:
    """A finite number above zero, or ``None``."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
