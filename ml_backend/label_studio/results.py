"""Items of a ``result``, as Label Studio writes them: their names, texts and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_backend.label_studio.controls import FramesSide, VideoSide

Result = dict[str, Any]
"""One item of the ``result`` of a prediction or annotation, as Label Studio writes it."""


@dataclass(frozen=True)
class ResultItem:
    """One item of a ``result``, read tolerantly: a part that is missing or malformed reads as an empty one.

    Attributes:
        raw: The item as Label Studio sent it.
    """

    raw: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """The id of the item; a region and the texts and labels beside it share one."""
        return str(self.raw.get("id"))

    @property
    def type(self) -> str:
        """The type, such as ``brushlabels``."""
        return str(self.raw.get("type", ""))

    @property
    def side(self) -> object:
        """Name of the object that the item points to."""
        return self.raw.get("to_name")

    @property
    def control(self) -> object:
        """Name of the control that the item belongs to."""
        return self.raw.get("from_name")

    @property
    def page(self) -> Any:
        """Index of the page as it was sent; 0 where none was."""
        return self.raw.get("item_index") or 0

    @property
    def value(self) -> Mapping[str, Any]:
        """The value; empty where it is no object."""
        value = self.raw.get("value")
        return value if isinstance(value, Mapping) else {}

    @property
    def texts(self) -> list[str]:
        """The texts, in the order in which they were typed."""
        texts = self.value.get("text")
        if isinstance(texts, str):
            return [texts]
        return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []

    @property
    def note(self) -> str:
        """The first text of the region's note; see :func:`region_note`."""
        meta = self.raw.get("meta")
        lines = meta.get("text") if isinstance(meta, Mapping) else None
        return lines[0] if isinstance(lines, list) and lines and isinstance(lines[0], str) else ""

    def is_from(self, control: str | None) -> bool:
        """Whether the item belongs to a control; never to one that the configuration lacks (``None``)."""
        return control is not None and self.control == control

    def labels(self, kind: str = "labels") -> tuple[str, ...]:
        """See :func:`region_labels`."""
        return region_labels(self.raw, kind)


def instance_id(task: int | str, expression: str, rank: int) -> str:
    """Name one instance of a task; the same input gives the same name.

    Region ids are built from it, so that a later answer for the same instance replaces its regions.
    """
    digest = hashlib.sha256(f"{task}\x1f{expression}\x1f{rank}".encode()).hexdigest()
    return f"t{task}-{digest[:10]}"


def region_note(expression: str, attributes: Sequence[str] = ()) -> list[str]:
    """The texts of ``meta.text``, the expression first; Label Studio shows them in a region's panel.

    The second begins with a dash, since the panel puts them directly behind one another.
    """
    return [expression, f" — attributes: {', '.join(attributes)}"] if attributes else [expression]


def status_result(side: FramesSide | VideoSide, text: str, *, interactive: bool = False) -> Result | None:
    """A message for annotators in the task's ``status`` field; ``None`` if the configuration has none.

    Its id is always the same, so that a later message replaces an earlier one.

    Args:
        side: The side of the task.
        text: The message.
        interactive: Whether it belongs to an interactive answer. Label Studio's editor takes a text of one beside a
            video for a span of its timeline, and breaks when a span without frames is selected: so it gets one.
    """
    target = side.task.status_target
    result = _text_result(target or side.name, side.task.status, text)
    if result is not None and interactive and target is None and isinstance(side, VideoSide):
        result["value"]["ranges"] = [{"start": 1, "end": 1}]
    return result


def expression_result(side: FramesSide | VideoSide, expression: str) -> Result | None:
    """The expression, in the field that annotators type it into; ``None`` if the configuration has none."""
    return _text_result(side.name, side.task.expression, expression)


def expressions_result(side: FramesSide, expressions: Sequence[str]) -> Result | None:
    """Several expressions in that field, in place of those that stand in it; ``None`` where there are none."""
    return _text_result(side.name, side.task.expression, *expressions) if expressions else None


def status_id(side: FramesSide | VideoSide) -> str:
    """The id of messages beside a side of a task."""
    return _text_id(side.task.status_target or side.name, side.task.status)


def _text_id(target: str, control: str | None) -> str:
    return f"{control}-{target}"


def _text_result(target: str, control: str | None, *texts: str) -> Result | None:
    if control is None:
        return None
    return {
        "id": _text_id(target, control),
        "from_name": control,
        "to_name": target,
        "type": "textarea",
        "value": {"text": list(texts)},
    }


def region_labels(result: Mapping[str, Any], kind: str = "labels") -> tuple[str, ...]:
    """The labels of a region below the name of their kind, such as ``brushlabels``; none where there are none."""
    value = result.get("value")
    labels = value.get(kind) if isinstance(value, Mapping) else None
    return tuple(str(label) for label in labels) if isinstance(labels, list | tuple) else ()


def is_label_of_text(result: Mapping[str, Any]) -> bool:
    """Whether a result is no region, but a label that Label Studio has hung on a text of the whole task.

    It does so with the label that is selected when an interactive answer brings the text.
    """
    value = result.get("value")
    kind = str(result.get("type", ""))
    return "original_height" not in result and isinstance(value, Mapping) and value.keys() <= {kind}
