"""A Label Studio that can be ill, over real HTTP; and servers that are killed, with what they promised before."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ml_backend.database.address import Address, ServerAddress
from ml_backend.database.postgresql import connect_alone

ROOT = Path(__file__).parents[2]


class Exchange(BaseHTTPRequestHandler):
    """One request, and how it may be answered."""

    def reply(
        self, content: bytes, status: int = 200, kind: str = "application/json", **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def reply_json(self, body: Any, status: int = 200) -> None:
        self.reply(json.dumps(body).encode(), status)

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, *_: Any) -> None:
        """Keep the test output quiet."""


Illness = Callable[[Exchange], None]
"""Answers any request in place of Label Studio."""


def _page(status: int, text: str) -> Illness:
    return lambda exchange: exchange.reply(f"<html><h1>{text}</h1></html>".encode(), status, "text/html")


def _json(status: int, body: Any) -> Illness:
    return lambda exchange: exchange.reply_json(body, status)


def _half(exchange: Exchange) -> None:
    """The head of an answer and half of its body; then the connection ends."""
    exchange.send_response(200)
    exchange.send_header("Content-Length", "1000")
    exchange.end_headers()
    exchange.wfile.write(b'{"results": [')
    exchange.wfile.flush()
    exchange.connection.close()


def _silent(exchange: Exchange) -> None:
    """No answer for longer than anybody waits."""
    threading.Event().wait(5.0)


def _redirect(exchange: Exchange) -> None:
    exchange.reply(b"", 302, Location="http://127.0.0.1:9/user/login")


ILLNESSES: dict[str, Illness] = {
    "500": _json(500, {"detail": "out of memory"}),
    "401": _json(401, {"detail": "Invalid token."}),
    "403": _json(403, {"detail": "You do not have permission."}),
    "429": _json(429, {"detail": "Request was throttled."}),
    "a page with 200": _page(200, "Please sign in"),
    "a page with 404": _page(404, "Not Found"),
    "a page with 400": _page(400, "Bad Request: this host is not allowed"),
    "a page with 502": _page(502, "Bad Gateway"),
    "half of JSON": lambda exchange: exchange.reply(b'{"id": 1, "resu'),
    "JSON of another form": _json(200, [None, 7, "x"]),
    "nothing but null": _json(200, None),
    "a redirect": _redirect,
    "a connection that breaks": _half,
    "no answer": _silent,
}
"""Ways in which Label Studio can be ill. None of them says anything about a task."""


@dataclass
class IllLabelStudio:
    """The calls that deliveries need; see :class:`tests.support.backend.FakeLabelStudio` for a healthy one.

    Attributes:
        url: Its address.
        predictions: What was stored, in order.
        gone: Tasks that it no longer has.
        picky: Tasks whose predictions it refuses.
        illness: Answers in its place; ``None`` while it is well.
    """

    url: str
    predictions: list[dict[str, Any]] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    picky: set[int] = field(default_factory=set)
    illness: Illness | None = None

    def counts(self) -> Counter[int]:
        """How many predictions each task has."""
        return Counter(int(one["task"]) for one in self.predictions)

    def answer(self, exchange: Exchange) -> None:
        """Answer a request."""
        body = exchange.read()
        if self.illness is not None:
            self.illness(exchange)
        elif exchange.command == "POST":
            self._store(exchange, json.loads(body))
        elif exchange.path.startswith("/api/tasks/"):
            task = int(exchange.path.split("/")[3])
            known = task not in self.gone
            exchange.reply_json({"id": task} if known else {"detail": "Not found."}, 200 if known else 404)
        elif not exchange.path.startswith("/api/predictions/"):
            exchange.reply_json({"detail": "This one knows predictions only."}, 503)
        else:
            task = int(exchange.path.rpartition("=")[2])
            exchange.reply_json([one for one in self.predictions if one["task"] == task])

    def _store(self, exchange: Exchange, prediction: dict[str, Any]) -> None:
        if prediction["task"] in self.gone | self.picky:
            exchange.reply_json({"validation_errors": {"task": ["Invalid pk - object does not exist."]}}, 400)
            return
        self.predictions.append(prediction)
        exchange.reply_json({"id": len(self.predictions)}, 201)


@contextlib.contextmanager
def ill_label_studio() -> Iterator[IllLabelStudio]:
    """Serve one that is well until it is told otherwise."""

    class Handler(Exchange):
        def do_GET(self) -> None:
            served.answer(self)

        def do_POST(self) -> None:
            served.answer(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    served = IllLabelStudio(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Promises:
    """What servers said that they had promised, before they were killed.

    Attributes:
        events: Numbers of the annotations whose events were acknowledged.
        tasks: Tasks whose predictions were promised.
        lines: How many lines there were.
    """

    events: set[int] = field(default_factory=set)
    tasks: set[int] = field(default_factory=set)
    lines: int = 0

    def take(self, line: str) -> None:
        """Read a line of a server's output; what was cut off by a kill was never said."""
        kind, _, number = line.strip().partition(" ")
        if line.endswith("\n") and number:
            {"event": self.events, "task": self.tasks}[kind].add(int(number))
            self.lines += 1


class StormServer:
    """A backend in a process group of its own; see :mod:`tests.support.storm_driver`.

    Args:
        world: Its folder.
        url: Its Label Studio.
        promises: Where its promises are noted.
        environment: Further variables.
        descriptors: Most files and sockets that one process may have open; ``None`` for the system's.
        quiet: Whether it makes no new promises.
    """

    def __init__(
        self,
        world: Path,
        url: str,
        promises: Promises,
        environment: Mapping[str, str] | None = None,
        descriptors: int | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        first = 0 if quiet else 1000 + 3 * promises.lines
        self._promises = promises
        self.log = world / "server.log"
        path = os.pathsep.join((str(ROOT), *sys.path[1:]))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.storm_driver", str(world), url, str(first)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": path,
                    "OMP_NUM_THREADS": "1",
                    **(environment or {}),
                },
                start_new_session=True,
                preexec_fn=limit,
            )
        self.waits = threading.Event()
        self.up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("waits"):
                self.waits.set()
            elif line.startswith("up"):
                self.up.set()
            else:
                self._promises.take(line)

    def kill(self) -> None:
        """End the server and its model process at once, as a power cut does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()

    def assert_alive(self) -> None:
        """Fail with the end of its log where it has ended by itself."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]


def rows(database: Address, query: str) -> list[tuple[Any, ...]]:
    """Read a database from outside, while a server uses it."""
    if isinstance(database, ServerAddress):
        with connect_alone(database).connect() as reading:
            return [tuple(row) for row in reading.exec_driver_sql(query)]
    with contextlib.closing(sqlite3.connect(database, timeout=30.0)) as connection:
        return connection.execute(query).fetchall()


@contextlib.contextmanager
def storm_server(world: Path, url: str, promises: Promises, **options: Any) -> Iterator[StormServer]:
    """A server that is killed in the end."""
    server = StormServer(world, url, promises, **options)
    try:
        yield server
    finally:
        server.kill()
