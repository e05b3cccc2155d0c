"""Clients that are slow, fat or many, and how long ``/health`` takes meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

_BLOCK = b"x" * 2**16


@dataclass(frozen=True)
class Answers:
    """What ``/health`` did during a storm.

    Attributes:
        seconds: Of each answer; infinite where none came in time.
    """

    seconds: tuple[float, ...]

    @property
    def worst(self) -> float:
        return max(self.seconds)


class Storm(ABC):
    """Clients that stand for as long as the context is entered.

    Args:
        url: Address of the server.
        count: Number of clients.
    """

    name = ""

    def __init__(self, url: str, count: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        self._host = b"Host: " + parts.netloc.encode() + b"\r\n"
        self._count = count
        self._over = threading.Event()

    def __enter__(self) -> Storm:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self._count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(self._address, timeout=5) as client:
                self.act(client)

    @abstractmethod
    def act(self, client: socket.socket) -> None:
        """What a client does with a connection; it is made again after that."""

    def wait(self, seconds: float) -> bool:
        """Wait, and say whether the storm goes on."""
        return not self._over.wait(seconds)


class HalfOpen(Storm):
    name = "half a head, then nothing"

    def act(self, client: socket.socket) -> None:
        client.sendall(b"POST /predict HTTP/1.1\r\n" + self._host + b"Content-Le")
        client.settimeout(0.5)
        while self.wait(0):
            with contextlib.suppress(TimeoutError):
                if not client.recv(100):
                    return


class SlowHead(Storm):
    name = "a head byte by byte"

    def act(self, client: socket.socket) -> None:
        client.sendall(b"GET /health HTTP/1.1\r\n" + self._host + b"X-Long: ")
        while self.wait(0.2):
            client.sendall(b"x")


class SlowBody(Storm):
    name = "a body byte by byte"

    def act(self, client: socket.socket) -> None:
        client.sendall(b"POST /webhook HTTP/1.1\r\n" + self._host + b"Content-Length: 100000\r\n\r\n{")
        while self.wait(0.2):
            client.sendall(b" ")


class FatStranger(Storm):
    name = "100 MB without the secret"

    def act(self, client: socket.socket) -> None:
        client.sendall(b"POST /webhook HTTP/1.1\r\n" + self._host + b"Content-Length: 100000000\r\n\r\n")
        for _ in range(100_000_000 // len(_BLOCK)):
            if not self.wait(0):
                return
            client.sendall(_BLOCK)
        client.recv(1000)


class SlowReader(Storm):
    name = "answers that nobody reads"
    path = b"/static/pages.css"
    requests = 20

    def act(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.sendall((b"GET " + self.path + b" HTTP/1.1\r\n" + self._host + b"\r\n") * self.requests)
        while self.wait(0.5):
            client.sendall(b"")


class SlowReaderOfPages(SlowReader):
    name = "pages that nobody reads"
    path = b"/"


class Pipeline(SlowReader):
    name = "5,000 requests in a row, unread"
    path = b"/health"
    requests = 5000


class Persistent(Storm):
    name = "pages, asked for all the time"

    def act(self, client: socket.socket) -> None:
        while self.wait(0):
            client.sendall(b"GET / HTTP/1.1\r\n" + self._host + b"\r\n")
            if not client.recv(2**20):
                return


class Flood(Storm):
    name = "connections, one after the other"

    def act(self, client: socket.socket) -> None:
        client.sendall(b"G")


STORMS: tuple[tuple[type[Storm], int], ...] = (
    (HalfOpen, 40),
    (HalfOpen, 600),
    (SlowHead, 100),
    (SlowBody, 100),
    (FatStranger, 4),
    (SlowReader, 100),
    (SlowReaderOfPages, 100),
    (Pipeline, 20),
    (Persistent, 100),
    (Flood, 4),
)


def ask(url: str, timeout: float) -> float:
    """Seconds that one answer of ``/health`` takes, on a connection of its own."""
    begin = time.monotonic()
    with contextlib.suppress(requests.RequestException):
        if requests.get(f"{url}/health", timeout=timeout).status_code in (200, 401):
            return time.monotonic() - begin
    return float("inf")


def weather(url: str, seconds: float) -> Iterator[tuple[str, int, Answers]]:
    """Let every storm stand for a while and ask for ``/health`` all the time.

    Args:
        url: Address of the server.
        seconds: Of each storm.
    """
    for kind, count in STORMS:
        with kind(url, count):
            time.sleep(1.0)
            yield kind.name, count, Answers(tuple(_asked(lambda: ask(url, seconds), seconds)))


def _asked(once: Callable[[], float], seconds: float) -> Iterator[float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield once()
        time.sleep(0.05)
