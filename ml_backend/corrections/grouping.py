"""What belongs together, because it comes of one video: its parts, and its pages at another rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def group_of(task_data: Mapping[str, Any], media_digest: str) -> str:
    """What tells a task's video from others: where its pages come from, else the content of its media.

    An import writes the name of its file as ``source``. Videos of one name count as one.

    Args:
        task_data: The task's data.
        media_digest: Key of its media.
    """
    source = task_data.get("source")
    return source if isinstance(source, str) and source else media_digest
