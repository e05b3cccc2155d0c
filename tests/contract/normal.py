"""What may differ between two runs or be reworded is replaced by a marker; everything else is compared exactly."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MESSAGE, TIME, NUMBER = "<message>", "<time>", "<number>"

_MESSAGES = frozenset(
    {"error", "errors", "hint", "reason", "outcome", "message", "notes", "triggers", "remembered", "made_by"}
)
"""Keys whose texts are for people; so is all that is below them."""

_STATUS_CONTROLS = frozenset({"status", "message"})
"""Controls that show an annotator the backend's messages."""

_LONG = 64
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?")


def normalised(value: Any) -> Any:
    """An answer's JSON with its messages, the server's own times and very long lists of numbers replaced."""
    if isinstance(value, Mapping):
        if value.get("type") == "textarea" and value.get("from_name") in _STATUS_CONTROLS:
            value = {**value, "value": {**value["value"], "text": [MESSAGE for _ in value["value"]["text"]]}}
        kind = value.get("kind")
        if value.get("state") == "failed" and "attempts" in value:
            value = {**value, "attempts": NUMBER}  # of a worker that dies, not every attempt is noted in time
        return {
            str(key): _messages(item)
            if key in _MESSAGES or (key == "about" and kind == "refine")
            else _time(item)
            if key in ("since", "last_seen") or str(key).endswith("_at")
            else normalised(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [normalised(item) for item in value]
        if len(items) > _LONG and all(isinstance(item, int | float) for item in items):
            return f"{len(items)} numbers, {digest(items)}"
        return items
    if isinstance(value, str) and len(value) > 100 * _LONG:
        return f"{len(value)} characters, {digest(value)}"
    return value


def digest(value: Any) -> str:
    """A fingerprint of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _messages(value: Any) -> Any:
    """The same structure with a marker for each text that is not empty."""
    if isinstance(value, Mapping):
        return {str(key): _messages(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_messages(item) for item in value]
    return MESSAGE if isinstance(value, str) and value else value


def _time(value: Any) -> Any:
    return TIME if isinstance(value, str) and _MOMENT.fullmatch(value) else value
