"""Servers on the loopback address: media, a proxy, and certificates of a private authority."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest


class Server:
    """A server that answers as its routes say and notes what it was asked.

    Attributes:
        routes: By path without query.
        asked: Path and headers of each request.
        url: Its address.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers.items())))
                route = outer.routes.get(self.path.split("?")[0], lambda handler: handler.send_error(404))
                with contextlib.suppress(OSError):  # whoever asked has given up
                    route(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def body(self, path: str, content: bytes, status: int = 200, **headers: str) -> None:
        """Answer a path with a content."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(content)

        self.routes[path] = answer

    def headers_of(self, index: int) -> dict[str, str]:
        """The headers of a request."""
        return self.asked[index][1]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class ForwardProxy:
    """An HTTP proxy that reaches every host at one address.

    Attributes:
        asked: Method and target of each request, and what identified its sender.
        url: Its address.
    """

    def __init__(self, target: int, *, refusing: bool = False) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                outer.asked.append(("CONNECT", self.path, self.headers.get("Proxy-Authorization")))
                if refusing:
                    self.send_error(403, "Not here")
                    return
                with socket.create_connection(("127.0.0.1", target)) as there:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=_pump, args=(there, self.connection), daemon=True)
                    back.start()
                    _pump(self.connection, there)
                    back.join()

            def do_GET(self) -> None:
                outer.asked.append(("GET", self.path, self.headers.get("Proxy-Authorization")))
                parts = urlsplit(self.path)
                with socket.create_connection(("127.0.0.1", target)) as there:
                    path = parts.path + (f"?{parts.query}" if parts.query else "")
                    there.sendall(
                        f"GET {path} HTTP/1.0\r\n{str(self.headers).replace(chr(10), chr(13) + chr(10))}".encode()
                    )
                    _pump(there, self.connection)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> ForwardProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Cable:
    """A way to a port of this machine that can be cut: all connections end, and new ones are refused.

    Attributes:
        port: Where it begins.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Let connections through again, at the same port."""
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        self._listener, self.port = listener, int(listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            ends, self._ends = self._ends, []
            if listener is not None:
                _hang_up(listener)
            for end in ends:
                _hang_up(end)

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was cut
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    if self._listener is not listener:
                        _hang_up(here)
                        _hang_up(there)
                        return
                    self._ends += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def private_authority(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate for a host that no public authority has signed, and the server's side of it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    certificate, key = folder / "authority.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the environment says of proxies and authorities."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in (*names, *(name.lower() for name in names)):
        monkeypatch.delenv(name, raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def names_resolve(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, str]) -> Iterator[None]:
    """Let names have these addresses; ``127.0.0.1`` counts as public meanwhile."""
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: object, **options: object) -> object:
        if host.endswith(".test") and host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(addresses.get(host, host), *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        patch.setattr("steerseg.video.sockets.is_public_address", lambda address: address == "127.0.0.1")
        yield
