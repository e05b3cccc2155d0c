"""A Label Studio that keeps what it is sent, over real HTTP: the few calls that the backend and its commands make."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Item = dict[str, Any]
_COLLECTION = re.compile(r"/api/(projects|predictions|annotations|storages/localfiles|ml|webhooks|tasks)/?")
_ONE = re.compile(r"/api/(projects|predictions|annotations|ml|webhooks|tasks)/(\d+)/?")
_OF_ONE = re.compile(r"/api/(?:projects|tasks)/(\d+)/(import|annotations)/?")


@dataclass
class LabelStudio:
    """Its content, and what was asked of it.

    Attributes:
        url: Its address.
        items: By collection, what it has.
        writes: Method, path and JSON of each request that changes something, in order.
    """

    url: str = ""
    items: dict[str, list[Item]] = field(default_factory=dict)
    writes: list[tuple[str, str, Any]] = field(default_factory=list)

    def add(self, kind: str, item: Item) -> Item:
        """Keep an item, with the next number where it has none."""
        kept = self.items.setdefault(kind, [])
        made = {"id": len(kept) + 1, **item}
        kept.append(made)
        return made

    def answer(self, method: str, address: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of the answer to a request."""
        path, query = urlsplit(address).path, parse_qs(urlsplit(address).query)
        if method != "GET":
            self.writes.append((method, address, body))
        if path.startswith("/api/version"):
            return 200, {"release": "1.23.2"}
        if path.startswith("/api/current-user"):
            return 200, {"email": "ann@example.org"}
        if found := _OF_ONE.fullmatch(path):
            return self._of_one(int(found[1]), found[2], body)
        if found := _ONE.fullmatch(path):
            return self._one(method, found[1], int(found[2]), body)
        if found := _COLLECTION.fullmatch(path):
            return self._collection(
                method, found[1], {name: values[0] for name, values in query.items()}, body
            )
        return 404, {"detail": "Not found."}

    def _of_one(self, number: int, what: str, body: Any) -> tuple[int, Any]:
        if what == "import":
            made = [self.add("tasks", {"project": number, "total_predictions": 0, **task}) for task in body]
            return 201, {"task_ids": [task["id"] for task in made]}
        kept = self.items.get("annotations", [])
        return 200, [one for one in kept if one["task"] == number and not one["was_cancelled"]]

    def _one(self, method: str, kind: str, number: int, body: Any) -> tuple[int, Any]:
        kept = self.items.setdefault(kind, [])
        found = next((item for item in kept if item["id"] == number), None)
        if found is None:
            return 404, {"detail": "Not found."}
        if method == "PATCH":
            found.update(body)
        if method == "DELETE":
            kept.remove(found)
            return 204, None
        return 200, found

    def _collection(self, method: str, kind: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if method == "POST":
            made = self.add(kind, body)
            if kind == "ml":  # it is asked at once, and a webhook is made
                made.update(state="CO", model_version="the-version")
                self.add(
                    "webhooks", {**_WEBHOOK, "project": body["project"], "url": body["url"] + "/webhook"}
                )
            if kind == "predictions":
                for task in self.items.get("tasks", []):
                    task["total_predictions"] += task["id"] == body["task"]
            return 201, made
        kept = self.items.get(kind, [])
        for name in ("project", "task"):
            kept = [item for item in kept if name not in query or str(item.get(name)) == query[name]]
        if kind == "projects":
            return 200, {"results": kept, "next": None}
        return 200, {"tasks": kept, "total": len(kept)} if kind == "tasks" else kept


_WEBHOOK: Item = {
    "headers": {},
    "actions": [],
    "is_active": True,
    "send_payload": True,
    "send_for_all_actions": True,
}


@contextmanager
def served(answer: Callable[[str, str, Any], tuple[int, Any]]) -> Iterator[str]:
    """Serve JSON over HTTP; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            with lock:
                status, body = answer(self.command, self.path, json.loads(content) if content else None)
                sent = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_POST(self) -> None:
            self.do_GET()

        def do_PATCH(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            """Keep the test output quiet."""

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def label_studio() -> Iterator[LabelStudio]:
    """A running Label Studio without content."""
    made = LabelStudio()
    with served(made.answer) as url:
        made.url = url
        yield made
