"""``steerseg-backend serve`` as a process of its own, asked over HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests


@dataclass
class Served:
    """A server process.

    Attributes:
        process: The process.
        url: Its address.
        log: File of its output.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def processes(self) -> set[int]:
        """The process and everything below it."""
        found, left = set(), [self.process.pid]
        while left:
            pid = left.pop()
            found.add(pid)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    left += [int(child) for child in (task / "children").read_text().split()]
        return found


def wait_until(condition: Callable[[], Any]) -> Any:
    """Ask until the answer is true, and return it."""
    while not (value := condition()):
        time.sleep(0.05)
    return value


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def command(*arguments: str) -> list[str]:
    """The backend's command line, in this environment."""
    return [sys.executable, "-m", "ml_backend.cli", *arguments]


@contextlib.contextmanager
def serving(preset: Path, folder: Path, *options: str) -> Iterator[Served]:
    """A server that answers; all its processes are gone at the end.

    Args:
        preset: Its preset's folder.
        folder: Of its data and its log.
        options: Further options of ``serve``.
    """
    port, log = free_port(), folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(
                *("serve", "--port", str(port), "--data-dir", str(folder / "data")),
                *("--preset", str(preset), "--device", "cpu", *options),
            ),
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    server = Served(process, f"http://127.0.0.1:{port}", log)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"{server.url}/health", timeout=10).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    wait_until(answers)
    try:
        yield server
    finally:
        for pid in server.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
