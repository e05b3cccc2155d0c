"""``steerseg-backend serve`` as a process: it answers without any model, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
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

import pytest
import requests

pytestmark = pytest.mark.timeout(240)


@dataclass
class Served:
    """A server process without usable models: its preset names weights that are not there."""

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
    while not (value := condition()):
        time.sleep(0.05)
    return value


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ml_backend.cli", *arguments]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    preset = tmp_path / "preset"
    preset.mkdir()
    (preset / "preset.json").write_text(json.dumps({"name": "empty", "lvlm": "lvlm", "sam2": "sam2"}))
    for part in ("lvlm", "sam2"):
        (preset / part).mkdir()
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(
                *("serve", "--port", str(port), "--data-dir", str(tmp_path / "data")),
                *("--preset", str(preset), "--device", "cpu"),
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
    yield server
    for pid in server.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def test_it_serves_without_models_says_so_and_ends_cleanly(served: Served) -> None:
    first = requests.get(f"{served.url}/health", timeout=10).json()
    assert first["status"] == "UP"
    assert "empty" in first["model_version"]
    wait_until(lambda: requests.get(f"{served.url}/health", timeout=10).json()["workers"][0]["error"])
    assert "failed" in requests.get(served.url, timeout=10).text
    below = served.processes()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait() == 0
    wait_until(lambda: not any(exists(pid) for pid in below))
    assert "Traceback" not in served.log.read_text().split("stopping: SIGTERM")[1]


def test_nothing_outlives_a_killed_server(served: Served) -> None:
    wait_until(lambda: len(served.processes()) >= 2)  # the server, and the model process
    below = served.processes()
    served.process.kill()
    served.process.wait()
    wait_until(lambda: not any(exists(pid) for pid in below))


def test_an_occupied_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = subprocess.run(
            command("serve", "--port", str(port), "--data-dir", str(tmp_path)), capture_output=True, text=True
        )
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "STEERSEG_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "no-such-preset"), "no preset 'no-such-preset'"),
        (("--port", "x"), "STEERSEG_PORT"),
        (("--host", "192.0.2.1"), "no address of this machine"),
        (("--data-dir", "/proc/nothing"), "STEERSEG_DATA_DIR"),
    ],
)
def test_settings_that_cannot_be_used_are_said_in_a_line(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = subprocess.run(
        command("serve", "--port", str(free_port()), "--data-dir", str(tmp_path), *arguments),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
