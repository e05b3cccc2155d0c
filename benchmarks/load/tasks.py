"""Import and list very many tasks, of one run: how long each takes, and how much memory at most.

    python -m benchmarks.load.tasks
    python -m benchmarks.load.tasks --tasks 10000

A table names as many expressions of one short clip. The tasks go by HTTP to a stand-in for Label Studio that keeps them
in memory, so the figures are those of this side alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ml_backend.importing.tasks import import_videos
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config_xml import FRAMES_EXAMPLE
from steerseg.video import write_video

_PROJECT = 1
_PAGES = 30


class _LabelStudio(ThreadingHTTPServer):
    """The calls that an import and a list make."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tasks: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: _LabelStudio
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/api/tasks":
            query = parse_qs(parts.query)
            page, size = int(query["page"][0]), int(query["page_size"][0])
            tasks = self.server.tasks
            self._answer({"tasks": tasks[(page - 1) * size : page * size], "total": len(tasks)})
        elif parts.path.startswith("/api/projects"):
            self._answer({"id": _PROJECT, "label_config": FRAMES_EXAMPLE})
        else:
            self._answer([])

    def do_POST(self) -> None:
        new = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        first = len(self.server.tasks) + 1
        self.server.tasks += [{"id": first + index, **task} for index, task in enumerate(new)]
        self._answer({"task_ids": [first + index for index in range(len(new))]})

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the figures count."""


def main() -> None:
    """Measure and print a line for each step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.tasks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    count = parser.parse_args().tasks
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_video(folder / "clip.mp4", _pictures(), 10.0)
        rows = "".join(f"clip.mp4,object number {number}\n" for number in range(count))
        (folder / "table.csv").write_text("video,expression\n" + rows, encoding="utf-8")
        server = _LabelStudio()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = LabelStudioClient(f"http://127.0.0.1:{server.server_port}", "token")
        begun = time.perf_counter()
        with tqdm(total=100, unit="%") as bar:

            def show(step: str, fraction: float) -> None:
                bar.set_postfix_str(step)
                bar.update(round(fraction * 100) - bar.n)

            report = import_videos(
                client,
                _PROJECT,
                media_dir=folder / "root" / "media",
                document_root=folder / "root",
                csv_file=folder / "table.csv",
                progress=show,
            )
        imported = time.perf_counter()
        listed = sum(1 for _ in tqdm(client.tasks.of_project(_PROJECT), unit="task"))
        done = time.perf_counter()
        server.shutdown()
        client.close()
    assert len(report.tasks) == listed == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} tasks of {_PAGES} pages: import {imported - begun:.1f} s, list {done - imported:.1f} s")
    print(f"peak memory, with the stand-in's tasks: {peak:.0f} MiB")


def _pictures() -> Iterator[NDArray[np.uint8]]:
    for number in range(_PAGES):
        yield np.full((48, 64, 3), number, dtype=np.uint8)


if __name__ == "__main__":
    main()
