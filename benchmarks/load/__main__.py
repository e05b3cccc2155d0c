"""Answer times of /health, /setup and /webhook under load, of one run, and how many events were lost.

    python -m benchmarks.load
    python -m benchmarks.load --clients 100 --seconds 30

A real server (``steerseg-backend serve``) with the demo's models has work meanwhile: first a refinement from a few
submitted tracks, then tasks to predict as well, for which the refinement makes way. Each of the clients sends a request
a second, of the three kinds in turn, on a connection that it keeps. Afterwards the database is asked for every event
that was acknowledged.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import requests

from steerseg.video import write_video

GOALS = {"/health": 0.1, "/webhook": 0.2}
"""Seconds below which the 99th percentile is to stay."""

_PROJECT = 1
_CORRECTED = 6  # submitted tracks
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
        clips = [folder / f"clip-{number}.mp4" for number in range(_CORRECTED)]
        for number, clip in enumerate(clips):
            write_video(clip, list(_pictures(48, number)), 25.0)
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
                _measure(f"http://127.0.0.1:{port}", folder, clips, arguments.clients, arguments.seconds)
            finally:
                server.terminate()


def _measure(url: str, folder: Path, clips: list[Path], clients: int, seconds: float) -> None:
    _wait_until_ready(url)
    requests.post(f"{url}/setup", json=_SETUP, timeout=30).raise_for_status()
    for number, clip in enumerate(clips):
        requests.post(f"{url}/webhook", json=_submitted(number, clip), timeout=30).raise_for_status()
    _wait_for_corrections(url)
    requests.post(f"{url}/projects/{_PROJECT}/refine", timeout=30).raise_for_status()
    print(f"a refinement runs ({_refinement_phase(url, 'training')})")
    events = _load(url, clients, seconds)

    body = {
        "tasks": [
            {"id": number, "data": {"video": str(clips[0]), "expression": f"the red square number {number}"}}
            for number in range(1, 200)
        ],
        "project": f"{_PROJECT}.1",
        "label_config": _CONFIG,
        "params": {"context": None},
    }
    answer = requests.post(f"{url}/predict", json=body, timeout=120)
    answer.raise_for_status()
    print(f"{len(answer.json()['pending'])} predictions as well; the refinement: {_refinement_phase(url)}")
    events |= _load(url, clients, seconds)

    with sqlite3.connect(folder / "data" / "steerseg.sqlite") as database:
        kept = {row[0] for row in database.execute("SELECT id FROM events")}
    print(f"events acknowledged {len(events)}, lost {len(events - kept)}")


def _submitted(number: int, clip: Path) -> dict[str, Any]:
    """The event of an annotation: the square's track, as an annotator draws it."""
    keyframes = [
        {"frame": t + 1, "enabled": True, "rotation": 0, "time": (t + 1) / 25, **_square(t, number)}
        for t in (0, 47)
    ]
    now = datetime.now(UTC).isoformat()
    return {
        "action": "ANNOTATION_CREATED",
        "project": {"id": _PROJECT, "label_config": _CONFIG},
        "task": {"id": 1000 + number, "data": {"video": str(clip), "expression": "the square"}},
        "annotation": {
            "id": 1000 + number,
            "task": 1000 + number,
            "project": _PROJECT,
            "was_cancelled": False,
            "created_at": now,
            "updated_at": now,
            "result": [
                {
                    "id": "square",
                    "from_name": "box",
                    "to_name": "video",
                    "type": "videorectangle",
                    "value": {
                        "framesCount": 48,
                        "duration": 1.92,
                        "sequence": keyframes,
                        "labels": ["object"],
                    },
                }
            ],
        },
    }


def _wait_for_corrections(url: str) -> None:
    """Wait until SAM 2 has made masks of the boxes."""
    while True:
        counts = requests.get(f"{url}/projects/{_PROJECT}/corrections", timeout=30).json()
        if counts["usable"] == _CORRECTED:
            return
        if counts["problems"]:
            raise SystemExit(f"a track was set aside: {counts['problems'][0]['reason']}")
        time.sleep(0.5)


def _refinement_phase(url: str, wanted: str = "") -> str:
    """What the refinement does, once that begins with ``wanted``."""
    while True:
        status = requests.get(f"{url}/projects/{_PROJECT}/refinement", timeout=30).json()
        current = status["current"]
        if current is None:
            raise SystemExit(f"the refinement has ended: {status['history'][0]['reason']}")
        if current["phase"].startswith(wanted):
            return str(current["phase"])
        time.sleep(0.5)


def _load(url: str, clients: int, seconds: float) -> set[int]:
    """Ask from all sides at once, print a table; the numbers of the events that were acknowledged."""
    load = os.getloadavg()[0]
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
    print(f"{clients} clients, {seconds:.0f} s, load before {load:.1f} on {os.cpu_count()} cores\n")
    print(f"{'route':10} {'requests':>8} {'p50 ms':>8} {'p99 ms':>8} {'most ms':>8}  p99 / goal")
    for route, values in times.items():
        middle, late = np.percentile(values, [50, 99]) if values else (float("nan"), float("nan"))
        goal = f"{late / GOALS[route]:10.2f}" if route in GOALS else ""
        print(
            f"{route:10} {len(values):8} {middle * 1000:8.1f} {late * 1000:8.1f} {max(values) * 1000:8.1f}  {goal}"
        )
    print(f"\nrequests refused {len(refused)}")
    for reason in sorted(set(refused)):
        print(f"  {reason}")
    print()
    return events


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


def _square(t: int, number: int) -> dict[str, float]:
    """Its place in percent of the picture."""
    return {
        "x": (4 * t) / 320 * 100,
        "y": (20 + 15 * number) / 180 * 100,
        "width": 60 / 320 * 100,
        "height": 50 / 180 * 100,
    }


def _pictures(count: int, number: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    pictures = []
    top = 20 + 15 * number
    for t in range(count):
        picture = np.full((180, 320, 3), 60, dtype=np.uint8)
        picture[top : top + 50, 4 * t : 4 * t + 60] = (210, 40, 40)
        pictures.append(picture)
    return pictures


if __name__ == "__main__":
    main()
