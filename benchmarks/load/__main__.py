"""Answer times of /health, /setup and /webhook under load, of one run, and how many events were lost.

    python -m benchmarks.load
    python -m benchmarks.load --clients 100 --seconds 30

A real server (``steerseg-backend serve``) with the demo's models predicts one task after another meanwhile. Each of
the clients sends a request a second, of the three kinds in turn, on a connection that it keeps. Afterwards the
database is asked for every event that was acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests

from steerseg.video import write_video

GOALS = {"/health": 0.1, "/webhook": 0.2}
"""Seconds below which the 99th percentile is to stay."""

_PROJECT = 1
_CONFIG = """<View><Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/>
<Labels name="labels" toName="video"><Label value="object"/></Labels>
<TextArea name="expression" toName="video"/></View>"""
_SETUP = {
    "project": f"{_PROJECT}.1",
    "schema": _CONFIG,
    "hostname": "http://127.0.0.1:9",
    "access_token": None,
    "extra_params": None,
}
_PERIOD = 1.0  # seconds between two requests of a client


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_video(clip, list(_pictures(48)), 25.0)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        environment = {
            **os.environ,
            "STEERSEG_PORT": str(port),
            "STEERSEG_DATA_DIR": str(folder / "data"),
            "STEERSEG_LOCAL_ROOTS": json.dumps([str(folder)]),
            "STEERSEG_PREDICT_TIMEOUT": "1",
            "STEERSEG_PUSH_PREDICTIONS": "false",
            "STEERSEG_LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "ml_backend.cli", "serve"]
        with subprocess.Popen(command, env=environment) as server:
            try:
                _measure(f"http://127.0.0.1:{port}", folder, clip, arguments.clients, arguments.seconds)
            finally:
                server.terminate()


def _measure(url: str, folder: Path, clip: Path, clients: int, seconds: float) -> None:
    _wait_until_ready(url)
    requests.post(f"{url}/setup", json=_SETUP, timeout=30).raise_for_status()
    body = {
        "tasks": [
            {"id": number, "data": {"video": str(clip), "expression": f"the red square number {number}"}}
            for number in range(1, 200)
        ],
        "project": f"{_PROJECT}.1",
        "label_config": _CONFIG,
        "params": {"context": None},
    }
    answer = requests.post(f"{url}/predict", json=body, timeout=120)
    answer.raise_for_status()
    busy = len(answer.json()["pending"])
    print(f"{busy} predictions wait for the model; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")

    times: dict[str, list[float]] = {"/health": [], "/setup": [], "/webhook": []}
    refused: list[str] = []
    events: set[int] = set()
    stop = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_ask, args=(url, number, stop, times, refused, events))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = requests.get(f"{url}/health", timeout=30).json()["queued"]
    with sqlite3.connect(folder / "data" / "steerseg.sqlite") as database:
        kept = {row[0] for row in database.execute("SELECT id FROM events")}

    print(f"{clients} clients, {seconds:.0f} s, {left} predictions still wait\n")
    print(f"{'route':10} {'requests':>8} {'p50 ms':>8} {'p99 ms':>8} {'most ms':>8}  p99 / goal")
    for route, values in times.items():
        middle, late = np.percentile(values, [50, 99]) if values else (float("nan"), float("nan"))
        goal = f"{late / GOALS[route]:10.2f}" if route in GOALS else ""
        print(
            f"{route:10} {len(values):8} {middle * 1000:8.1f} {late * 1000:8.1f} {max(values) * 1000:8.1f}  {goal}"
        )
    print(f"\nevents acknowledged {len(events)}, lost {len(events - kept)}; requests refused {len(refused)}")
    for reason in sorted(set(refused)):
        print(f"  {reason}")


def _wait_until_ready(url: str) -> None:
    """Wait until the models are loaded."""
    while True:
        try:
            health = requests.get(f"{url}/health", timeout=5).json()
        except requests.RequestException:
            time.sleep(0.5)
            continue
        if health["ready"]:
            return
        if any(worker["error"] for worker in health["workers"]):
            raise SystemExit(f"the models could not be loaded: {health['workers']}")
        time.sleep(0.5)


def _ask(
    url: str,
    number: int,
    stop: float,
    times: dict[str, list[float]],
    refused: list[str],
    events: set[int],
) -> None:
    """One client: a request a second until the time is over."""
    session = requests.Session()
    session.trust_env = False
    time.sleep(random.Random(number).uniform(0, _PERIOD))
    turn = number
    while time.monotonic() < stop:
        begun = time.monotonic()
        route = ("/health", "/setup", "/webhook")[turn % 3]
        turn += 1
        try:
            response = _request(session, url, route, number, turn)
        except requests.RequestException as error:
            refused.append(f"{route}: {type(error).__name__}")
            continue
        times[route].append(time.monotonic() - begun)
        if not response.ok:
            refused.append(f"{route}: status {response.status_code}")
        elif route == "/webhook":
            events.add(int(response.json()["event"]))
        time.sleep(max(0.0, begun + _PERIOD - time.monotonic()))


def _request(session: requests.Session, url: str, route: str, number: int, turn: int) -> requests.Response:
    if route == "/health":
        return session.get(url + route, timeout=30)
    body: dict[str, Any] = _SETUP
    if route == "/webhook":
        body = {
            "action": "TASKS_CREATED",
            "project": {"id": _PROJECT},
            "tasks": [{"id": 1000 * number + turn}],
        }
    return session.post(url + route, json=body, timeout=30)


def _pictures(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    pictures = []
    for t in range(count):
        picture = np.full((180, 320, 3), 60, dtype=np.uint8)
        picture[60:110, 4 * t : 4 * t + 60] = (210, 40, 40)
        pictures.append(picture)
    return pictures


if __name__ == "__main__":
    main()
