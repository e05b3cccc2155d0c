"""Processes that kill themselves in the middle of their work on a database."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from ml_backend.database.database import Database

Watch = Callable[..., None]
"""Called with the database, and with further events of its engine that count as points beside its statements."""


def killed_at(point: int, work: Callable[[Watch], None]) -> bool:
    """Work in a forked process that kills itself at a point; return whether it came so far.

    Args:
        point: Number of the statement, from 1, before which the process ends.
        work: Opens a database of its own, since connections must not cross a fork, has it watched, and works.
    """
    child = os.fork()
    if child == 0:
        passed = 0

        def count(*_: Any) -> None:
            nonlocal passed
            passed += 1
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)

        def watch(database: Database, *further: str) -> None:
            for name in ("before_cursor_execute", *further):
                event.listen(database._engine, name, count)

        try:
            work(watch)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
