"""Answer a batch of tasks."""

from __future__ import annotations

from typing import Any


def answer_item(predictions: list[dict[str, Any]]) -> dict[str, Any] | list[dict[str, Any]]:
    return predictions[0] if len(predictions) == 1 else predictions
