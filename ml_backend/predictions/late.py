"""Predictions that are ready after their request has ended."""

from __future__ import annotations

PUSHERS = 2  # late predictions that are pushed at the same time


LOOK_AGAIN = 30.0  # seconds between two looks at what is owed to a Label Studio that could not be reached


PAUSE = 5.0  # seconds until the next look after one that failed


REMEMBERED_PUSHES = 600.0  # seconds: longer than any request waits
