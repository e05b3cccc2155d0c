"""Requests of Label Studio, sent to a backend under test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.support.backend import Backend, recorded


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def introduce(backend: Backend, name: str = "predict_batch_video", **changes: Any) -> dict[str, Any]:
    """Set up the project of a recorded request; return the request's body."""
    body = recorded(name)
    setup = {**recorded("setup"), "project": body["project"], "schema": body["label_config"], **changes}
    backend.post("/setup", setup)
    return body


def with_expression(body: dict[str, Any], expression: str) -> dict[str, Any]:
    """The body of a batch with its last task alone, which asks for this."""
    task = body["tasks"][-1]
    return {**body, "tasks": [{**task, "data": {**task["data"], "expr": expression}}]}
