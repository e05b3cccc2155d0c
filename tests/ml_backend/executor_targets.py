"""Small handlers that a worker process of the executor tests really runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_backend.models.executor import ProcessLostError, should_yield
from steerseg.errors import ConfigError, VideoError

Progress = Callable[[str, float], None]


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class Commands:
    """Does what the request's first word says."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, request: tuple[Any, ...], progress: Progress) -> Any:
        self.count += 1
        command, *rest = request
        return getattr(self, command)(progress, *rest)

    def echo(self, progress: Progress, value: Any) -> Any:
        progress("echo", 1.0)
        return value

    def pid(self, progress: Progress) -> int:
        return os.getpid()

    def counted(self, progress: Progress) -> int:
        return self.count

    def fail(self, progress: Progress) -> None:
        raise VideoError("the video is empty; give one with frames")

    def surprise(self, progress: Progress) -> None:
        raise ZeroDivisionError("a secret detail")

    def exhaust(self, progress: Progress) -> None:
        raise MemoryError

    def unpicklable(self, progress: Progress) -> Any:
        return Unpicklable()

    def die(self, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, progress: Progress, marker: Path) -> str:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    def break_once(self, progress: Progress, marker: Path) -> str:
        if not marker.exists():
            marker.touch()
            raise ProcessLostError("its device is gone")
        return "in a new one"

    def wait_for(self, progress: Progress, started: Path, release: Path) -> str:
        """Say that it runs, then report progress until a file appears."""
        started.touch()
        while not release.exists():
            progress("waiting", 0.5)
            time.sleep(0.01)
        return "released"

    def until_yield(self, progress: Progress, started: Path) -> str:
        """Say that it runs, then work until something more urgent waits."""
        started.touch()
        while not should_yield(progress):
            progress("working", 0.5)
            time.sleep(0.01)
        return "put down"

    def note(self, progress: Progress, log: Path, word: str) -> None:
        with log.open("a") as file:
            file.write(word + "\n")

    def hang(self, progress: Progress) -> None:
        while True:
            time.sleep(60)


def commands() -> Commands:
    return Commands()


def unloadable() -> Commands:
    raise ConfigError("no preset 'x'; expected demo")


def broken() -> Commands:
    raise RuntimeError("weights are odd")


def dying() -> Commands:
    os._exit(3)
