"""``steerseg-backend serve`` as a process: it answers without any model, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.served import Served, command, free_port, serving, wait_until

pytestmark = pytest.mark.timeout(240)


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server without usable models: its preset names weights that are not there."""
    preset = tmp_path / "preset"
    preset.mkdir()
    (preset / "preset.json").write_text(json.dumps({"name": "empty", "lvlm": "lvlm", "sam2": "sam2"}))
    for part in ("lvlm", "sam2"):
        (preset / part).mkdir()
    with serving(preset, tmp_path) as server:
        yield server


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
