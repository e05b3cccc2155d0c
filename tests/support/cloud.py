"""An S3 server on the loopback address, also a slow one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import requests

KEYS = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret", "region_name": "us-east-1"}

_PIECE = 64 * 1024


@dataclass(frozen=True)
class S3:
    """An S3 server.

    Attributes:
        url: Its address.
        client: Talks to it.
    """

    url: str
    client: Any

    @classmethod
    @contextlib.contextmanager
    def serving(cls, *buckets: str) -> Iterator[Self]:
        """Start one with empty buckets.

        Raises:
            ImportError: moto's server or boto3 is not installed.
        """
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            url = f"http://{host}:{port}"
            client = boto3.client("s3", endpoint_url=url, **KEYS)
            for bucket in buckets:
                client.create_bucket(Bucket=bucket)
            yield cls(url, client)
        finally:
            server.stop()


class SlowS3:
    """Hands out what another S3 server has, at a limited speed.

    Attributes:
        ranges: What was asked of contents, in order.
        url: Its address.
    """

    def __init__(self, source: str, *, bytes_a_second: float) -> None:
        self.ranges: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                if asked := self.headers.get("Range"):
                    outer.ranges.append(asked)
                there = requests.request(
                    self.command, source + self.path, headers=dict(self.headers), stream=True, timeout=60
                )
                self.send_response(there.status_code)
                for name, value in there.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # whoever asked has given up
                    for piece in there.iter_content(_PIECE):
                        self.wfile.write(piece)
                        time.sleep(len(piece) / bytes_a_second)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> SlowS3:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
