"""Small handlers that a worker process of the executor tests really runs."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_backend.models.process import ProcessLostError
from ml_backend.models.reporter import Reporter
from steerseg.errors import ConfigError, VideoError


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class Commands:
    """Does what the request's first word says."""

    switched_off = "the second model is not there"

    def __init__(self) -> None:
        self.count = 0
        self.ahead: list[Any] = []
        self.idle_marker: Path | None = None

    def read_ahead(
        self, request: tuple[Any, ...] | None, upcoming: Sequence[tuple[Any, ...]], *, urgent: bool = False
    ) -> None:
        self.ahead.append([one[-1] for one in upcoming])
        if request is None and self.idle_marker is not None:
            self.idle_marker.touch()

    def __call__(self, request: tuple[Any, ...], reporter: Reporter) -> Any:
        self.count += 1
        command, *rest = request
        return getattr(self, command)(reporter, *rest)

    def echo(self, reporter: Reporter, value: Any) -> Any:
        reporter.progress("echo", 1.0)
        return value

    def frames_then(self, reporter: Reporter, frames: int, value: Any) -> Any:
        reporter.frames(frames)
        return self.echo(reporter, value)

    def slow_echo(self, reporter: Reporter, value: Any) -> Any:
        time.sleep(0.02)
        return self.echo(reporter, value)

    def log(self, reporter: Reporter, words: str) -> None:
        logging.getLogger("tests").info("%s", words)

    def pid(self, reporter: Reporter) -> int:
        return os.getpid()

    def touch_when_idle(self, reporter: Reporter, marker: Path) -> None:
        self.idle_marker = marker

    def read_so_far(self, reporter: Reporter, video: str) -> list[Any]:
        return list(self.ahead)

    def counted(self, reporter: Reporter) -> int:
        return self.count

    def fail(self, reporter: Reporter) -> None:
        raise VideoError("the video is empty; give one with frames")

    def surprise(self, reporter: Reporter) -> None:
        raise ZeroDivisionError("a secret detail")

    def exhaust(self, reporter: Reporter) -> None:
        raise MemoryError

    def unpicklable(self, reporter: Reporter) -> Any:
        return Unpicklable()

    def die(self, reporter: Reporter) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, reporter: Reporter, marker: Path) -> str:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    def break_once(self, reporter: Reporter, marker: Path) -> str:
        if not marker.exists():
            marker.touch()
            raise ProcessLostError("its device is gone")
        return "in a new one"

    def wait_for(self, reporter: Reporter, started: Path, release: Path) -> str:
        """Say that it runs, then report progress until a file appears."""
        started.touch()
        while not release.exists():
            reporter.progress("waiting", 0.5)
            time.sleep(0.01)
        return "released"

    def until_yield(self, reporter: Reporter, started: Path) -> str:
        """Say that it runs, then work until something more urgent waits."""
        started.touch()
        while not reporter.should_yield:
            reporter.progress("working", 0.5)
            time.sleep(0.01)
        return "put down"

    def note(self, reporter: Reporter, log: Path, word: str) -> None:
        with log.open("a") as file:
            file.write(word + "\n")

    def hang(self, reporter: Reporter) -> None:
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
