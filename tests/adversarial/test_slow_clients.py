"""Slow, fat and many clients: ``/health`` answers while they stand, and what a stranger sends is left unread."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from benchmarks.adversarial.clients import STORMS, Storm, ask
from ml_backend.settings import Settings
from ml_backend.web.intake import STRANGER_BYTES, Intake
from ml_backend.web.listener import Listener
from tests.support.backend import Backend, MakeBackend, make_backend

__all__ = ["make_backend"]

SECRET, USER, PASSWORD = "s3cret", "desk", "pass"
PATIENCE = 60.0
"""Seconds that tell an answer on a busy machine from none."""


@contextlib.contextmanager
def listening(app: Callable[..., Any], intake: Intake, threads: int = 8) -> Iterator[Listener]:
    listener = Listener(app, address="127.0.0.1:0", threads=threads, intake=intake)
    thread = threading.Thread(target=listener.serve, args=(PATIENCE,))
    thread.start()
    try:
        yield listener
    finally:
        listener.stop()
        thread.join()


def url_of(listener: Listener) -> str:
    return f"http://127.0.0.1:{listener.effective_port}"


def connect(listener: Listener, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(listener.effective_port)), timeout=PATIENCE)
    client.sendall(sent)
    return client


def answer_to(listener: Listener, sent: bytes) -> tuple[int, dict[str, Any]]:
    with connect(listener, sent) as client:
        received = b""
        while block := client.recv(2**16):
            received += block
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"nosniff" in head
    return int(head.split()[1]), json.loads(body)


@pytest.fixture
def guarded(make_backend: MakeBackend) -> Backend:
    return make_backend(
        webhook_secret=SECRET, basic_auth_username=USER, basic_auth_password=PASSWORD, max_request_mib=2
    )


@pytest.fixture
def server(guarded: Backend) -> Iterator[Listener]:
    with listening(guarded.client.application, Intake(guarded.service.settings)) as listener:
        yield listener


@pytest.mark.parametrize(("storm", "count"), STORMS, ids=lambda value: getattr(value, "name", str(value)))
def test_health_answers_while_a_storm_stands(server: Listener, storm: type[Storm], count: int) -> None:
    with storm(url_of(server), count):
        for _ in range(5):
            assert ask(url_of(server), PATIENCE) < PATIENCE


def head(path: str, length: int, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: backend", f"Content-Length: {length}", *lines, "", ""]
    ).encode()


@pytest.mark.parametrize("path", ["/webhook", "/predict"])
@pytest.mark.parametrize(
    "line",
    [
        "X-Nothing: x",
        "X-SteerSeg-Secret: wrong",
        "Authorization: Basic eDp5",
        "Authorization: Bearer x",
        "Authorization: Basic",
    ],
)
def test_a_large_body_of_a_stranger_is_refused_before_it_is_sent(
    server: Listener, path: str, line: str
) -> None:
    status, problem = answer_to(server, head(path, 100_000_000, line))
    assert status == 401
    assert "credentials" in problem["error"]
    assert server.held == 0


def test_a_client_that_sends_it_nevertheless_reads_the_refusal(server: Listener) -> None:
    answer = requests.post(f"{url_of(server)}/webhook", data=b"x" * 20_000_000, timeout=PATIENCE)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="SteerSeg"'


def test_small_bodies_reach_the_app_which_decides(server: Listener) -> None:
    url = f"{url_of(server)}/webhook"
    body = {"action": "START_TRAINING", "project": {"id": 1}}
    assert requests.post(url, json=body, timeout=PATIENCE).status_code == 401
    assert requests.post(url, json=body, auth=(USER, PASSWORD), timeout=PATIENCE).status_code == 201


@pytest.mark.parametrize("known", [{"headers": {"X-SteerSeg-Secret": SECRET}}, {"auth": (USER, PASSWORD)}])
def test_large_bodies_of_those_who_are_known_are_read(server: Listener, known: dict[str, Any]) -> None:
    body = {"action": "PROJECT_UPDATED", "project": {"id": 1}, "more": "x" * STRANGER_BYTES}
    answer = requests.post(f"{url_of(server)}/webhook", json=body, timeout=PATIENCE, **known)
    assert answer.status_code == 201, answer.text


def test_sizes_that_nobody_may_send_have_answers_of_their_own(server: Listener) -> None:
    secret = f"X-SteerSeg-Secret: {SECRET}"
    assert answer_to(server, head("/webhook", 3 * 2**20, secret))[0] == 413
    chunked = b"POST /webhook HTTP/1.1\r\nHost: backend\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answer_to(server, chunked)[0] == 411
    assert answer_to(server, b"GET / HTTP/1.1\r\nnonsense\r\n\r\n")[0] == 400
    assert answer_to(server, b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n\r\n")[0] == 431
    expecting = head("/webhook", 3 * 2**20, secret, "Expect: 100-continue")
    assert answer_to(server, expecting)[0] == 413
    held = [connect(server, head("/webhook", 2 * 2**20 - 1, secret)) for _ in range(2)]
    while server.held < 4 * 2**20 - 2:
        threading.Event().wait(0.02)
    assert answer_to(server, head("/webhook", 2 * 2**20 - 1, secret))[0] == 503
    for client in held:
        client.close()


class Hasty(Intake):
    """Waits for nobody."""

    @property
    def head_seconds(self) -> float:
        return 0.2

    @property
    def idle_seconds(self) -> float:
        return 0.2

    def content_seconds(self, size: int) -> float:
        return 0.2


def silent(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    start("200 OK", [("Content-Length", "0")])
    return [b""]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", head("/predict", 10), b"GET / HTTP/1.1\r\n\r\n"])
def test_who_takes_too_long_is_disconnected(sent: bytes) -> None:
    with listening(silent, Hasty(Settings())) as listener, connect(listener, sent) as client:
        while client.recv(1000):
            pass
    assert not listener.active_channels


def test_the_longest_waiting_connection_makes_room(server: Listener) -> None:
    clients = [connect(server, b"G") for _ in range(700)]
    assert ask(url_of(server), PATIENCE) < PATIENCE
    assert clients[0].recv(10) == b""
    assert len(server.active_channels) < len(clients)
    for client in clients:
        client.close()


def test_of_requests_in_a_row_the_first_is_answered_and_the_connection_closed(server: Listener) -> None:
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(server, asked * 1000) as client:
        received = b""
        while block := client.recv(2**16):
            received += block
    assert received.count(b"HTTP/1.1 401") == 1
    assert b"Connection: close" in received
    connection = http.client.HTTPConnection("127.0.0.1", int(server.effective_port), timeout=PATIENCE)
    with contextlib.closing(connection):
        sockets = set()
        for _ in range(3):  # one after the other, they keep the connection
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            sockets.add(connection.sock)
    assert len(sockets) == 1
    assert None not in sockets


def test_health_waits_behind_no_other_request() -> None:
    leave = threading.Event()
    entered = threading.Semaphore(0)

    def slow(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] != "/health":
            entered.release()
            leave.wait(PATIENCE)
        return silent(environ, start)

    with (
        listening(slow, Intake(Settings()), threads=4) as listener,
        contextlib.ExitStack() as clients,
    ):
        for _ in range(9):
            clients.enter_context(connect(listener, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        for _ in range(4):
            entered.acquire(timeout=PATIENCE)
        assert ask(url_of(listener), PATIENCE) < PATIENCE
        leave.set()


def test_what_is_being_answered_is_answered_before_the_end() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        entered.set()
        leave.wait(PATIENCE)
        start("200 OK", [("Content-Length", "4")])
        return [b"done"]

    asked = b"GET / HTTP/1.1\r\nHost: backend\r\n\r\n"
    with listening(slow, Intake(Settings())) as listener, connect(listener, asked) as client:
        entered.wait(PATIENCE)
        listener.stop()
        leave.set()
        received = b""
        while block := client.recv(1000):
            received += block
    assert received.endswith(b"\r\n\r\ndone")
