"""The order in which the demo starts its servers, with small servers in the place of both."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from ml_backend.demo.__main__ import start_servers, warnings_in
from ml_backend.demo.servers import BackendServer, LabelStudioServer, free_port

ANSWERS_LATE = f"""#!{sys.executable}
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

time.sleep(1)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
"""In Label Studio's place: nothing listens there for a while."""

READS_PROJECTS = """
import logging, os, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
try:
    urllib.request.urlopen(os.environ["STEERSEG_LABEL_STUDIO_URL"])
except OSError as error:
    logging.warning("project 1 was not read: %s", error)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", int(os.environ["STEERSEG_PORT"])), Handler).serve_forever()
"""
"""In the backend's place: at its start it reads the projects that it knows from an earlier one."""


class KnowingBackend(BackendServer):
    """A backend that knows projects."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", READS_PROJECTS, *arguments]


def test_a_backend_that_knows_projects_finds_label_studio_at_its_start(tmp_path: Path) -> None:
    command = tmp_path / "label-studio"
    command.write_text(ANSWERS_LATE, encoding="utf-8")
    command.chmod(0o700)
    label_studio = LabelStudioServer(tmp_path / "data", tmp_path / "files", free_port(), command=command)
    backend = KnowingBackend(tmp_path / "backend", free_port(), label_studio)
    with contextlib.ExitStack() as stack:
        servers = start_servers(label_studio, backend, stack)
        assert all(server.alive for server in servers)
        assert warnings_in(backend.log, 0) == []
    assert not any(server.alive for server in servers)
