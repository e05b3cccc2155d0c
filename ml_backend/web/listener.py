"""The listening server: waitress, with deadlines, and with a look at the head of a request before its body is read.

One thread reads from all connections without waiting for any. A request reaches the app's threads when it is
complete, so a slow client keeps none of them busy. Whoever sends requests without waiting for answers is answered once,
so that no client makes a long queue. ``/health`` has threads of its own, and waits behind no other request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher
from waitress.utilities import Error
from waitress.wasyncore import loop

from ml_backend.web.errors import Problem
from ml_backend.web.intake import Intake, RequestHead

log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 512
_ACCEPTED_AT_ONCE = 16
_IN_MEMORY = 64 * 2**10  # bytes of a body or an answer that wait in memory; the rest waits on disk
_DRAIN_SECONDS = 2.0
_HEALTH = "/health"
_HEALTH_THREADS = 2
_TICK = 1.0  # seconds between two looks at the deadlines


class Listener(TcpWSGIServer):
    """Waitress with the limits of an :class:`~ml_backend.web.intake.Intake`.

    Args:
        app: The WSGI application.
        address: ``host:port``.
        threads: Requests that are answered at the same time.
        intake: What is read.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(self, app: Callable[..., Any], *, address: str, threads: int, intake: Intake) -> None:
        self.intake = intake
        self.channel_class = _Channel
        self._most = _most_connections()
        self._stopping = False
        self._health = ThreadedTaskDispatcher()
        super().__init__(
            app,
            adj=Adjustments(
                listen=address,
                threads=threads,
                # Never reached: the connection that has waited longest makes room before.
                connection_limit=2 * self._most + 16,
                backlog=1024,
                recv_bytes=256 * 2**10,
                inbuf_overflow=_IN_MEMORY,
                outbuf_overflow=_IN_MEMORY,
                outbuf_high_watermark=2**40,  # a client that takes its answer slowly holds no thread
                max_request_body_size=2**62,  # the intake decides
                asyncore_use_poll=True,
                asyncore_loop_timeout=1,
                cleanup_interval=_TICK,
                ident=None,
            ),
        )

    def add_task(self, task: _Channel) -> None:
        """Have a connection's request answered."""
        (self._health if task.asks_for_health else self.task_dispatcher).add_task(task)

    def serve(self, grace: float) -> None:
        """Answer requests until :meth:`stop` is called.

        Args:
            grace: Seconds that requests in flight have to end after that.
        """
        self._health.set_thread_count(_HEALTH_THREADS)
        while not self._stopping:
            loop(timeout=_TICK, use_poll=True, map=self._map, count=1)
        self.accepting = False
        self.del_channel()
        self.socket.close()
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and any(channel.working for channel in self._channels):
            loop(timeout=0.05, use_poll=True, map=self._map, count=1)
        left = sum(channel.working for channel in self._channels)
        if left:
            log.warning("%d requests were not answered in time before the end", left)
        for dispatcher in (self.task_dispatcher, self._health):
            dispatcher.shutdown(timeout=0.5)
        for channel in self._channels:
            channel.drop()

    def stop(self) -> None:
        """Let :meth:`serve` end; may be called by a signal's handler."""
        self._stopping = True
        self.pull_trigger()

    def handle_accept(self) -> None:
        """Take new connections; where there are too many, the one that has waited longest goes."""
        for _ in range(_ACCEPTED_AT_ONCE):
            if len(self.active_channels) >= self._most and not self._make_room():
                return
            super().handle_accept()

    def maintenance(self, now: float) -> None:
        """Close the connections that are too slow."""
        late = [channel for channel in self._channels if channel.is_late(time.monotonic())]
        for channel in late:
            channel.drop()
        if late:
            log.info("%d connections were closed: they were too slow, or idle", len(late))

    @property
    def held(self) -> int:
        """Bytes of bodies that are held or about to be received."""
        return sum(channel.held for channel in self._channels)

    @property
    def _channels(self) -> list[_Channel]:
        return list(self.active_channels.values())

    def _make_room(self) -> bool:
        waiting = [channel for channel in self._channels if not channel.working]
        if not waiting:
            return False
        min(waiting, key=lambda channel: (channel.reads_body, channel.began)).drop()
        return True


class _Channel(HTTPChannel):
    """A connection.

    Attributes:
        began: By the monotonic clock, when it was made or its present request began.
        lingers: Whether it is closed after the next answer, over what the client sends and nobody reads.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.began = self._active = time.monotonic()
        self._flushing: tuple[float, int] | None = None  # since when, and how many bytes
        self._draining: float | None = None  # since when
        self.lingers = False
        super().__init__(*arguments, **options)

    def parser_class(self, adj: Any) -> _Parser:
        """A parser of this connection's next request."""
        return _Parser(adj, self)

    @property
    def working(self) -> bool:
        """Whether a request is being answered, or its answer has not left."""
        return bool(self.requests or self.total_outbufs_len)

    @property
    def asks_for_health(self) -> bool:
        """Whether the request that comes next is for ``/health``."""
        request = self.requests[0]
        return request.error is None and request.path == _HEALTH

    @property
    def reads_body(self) -> bool:
        """Whether the head of a request is here, and its body is awaited."""
        return self.request is not None and self.request.headers_finished

    @property
    def held(self) -> int:
        """Bytes of bodies that are held or about to be received."""
        return sum(one.content_length for one in (*self.requests, self.request) if one is not None)

    def is_late(self, now: float) -> bool:
        """Whether the client takes too long: to send a request, to take an answer, or to say anything."""
        intake: Intake = self.server.intake
        if self._draining is not None:
            return now - self._draining > _DRAIN_SECONDS
        if self.working:
            self._active = now
        if self.requests:
            return False
        if self.total_outbufs_len:
            since, size = self._flushing = self._flushing or (now, self.total_outbufs_len)
            return now - since > intake.content_seconds(size)
        self._flushing = None
        if self.request is None:
            return now - self._active > intake.idle_seconds
        seconds = intake.head_seconds
        if self.request.headers_finished:
            seconds += intake.content_seconds(self.request.content_length)
        return now - self.began > seconds

    def drop(self) -> None:
        """Close it now."""
        super().handle_close()

    def received(self, data: bytes) -> bool:
        """Take what has arrived."""
        self._active = time.monotonic()
        if self.request is None:
            self.began = self._active
        return bool(super().received(data))

    def handle_close(self) -> None:
        """Close it; over unread bytes, only when the client had the time to read its answer.

        A socket that is closed over unread bytes resets the connection, and the answer may be lost.
        """
        if not self.connected or not self.lingers or self._draining is not None:
            super().handle_close()
            return
        self._draining = time.monotonic()
        self.will_close = self.close_when_flushed = False
        with contextlib.suppress(OSError):  # the client is gone: reading shows it
            self.socket.shutdown(socket.SHUT_WR)

    def readable(self) -> bool:
        """Whether anything is to be read."""
        return self._draining is not None or bool(super().readable())

    def writable(self) -> bool:
        """Whether anything is to be written."""
        return self._draining is None and bool(super().writable())

    def handle_read(self) -> None:
        """Read, and throw away what follows a refusal."""
        if self._draining is None:
            super().handle_read()
            return
        try:
            self.recv(self.adj.recv_bytes)  # closes at the end
        except OSError:
            self.drop()


class _Parser(HTTPRequestParser):
    """Reads one request; its body only where the head says nothing against it."""

    def __init__(self, adj: Any, channel: _Channel) -> None:
        super().__init__(adj)
        self._channel = channel

    def received(self, data: bytes) -> int:
        """Take what has arrived; returns how much of it belongs to this request."""
        consumed = int(super().received(data))
        if self.error is not None and not isinstance(self.error, _RefusalError):
            self._refuse(Problem(self.error.code, f"the request cannot be read: {self.error.body}", ""))
        if self.completed and not self.empty and consumed < len(data):
            self._answer_as_the_last()
            return len(data)
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Read the head."""
        super().parse_header(header_plus)
        head = RequestHead(self.path, self.headers, self.content_length, self.chunked)
        server: Listener = self._channel.server
        problem = server.intake.refusal(head, server.held - self.content_length)
        if problem is not None:
            log.info("a request is refused with %d, its body is left unread", problem.status)
            self._refuse(problem)

    def _answer_as_the_last(self) -> None:
        """Close the connection after the answer: what follows is to be sent again (RFC 9112, section 9.3.2)."""
        self.headers["CONNECTION"] = "close"
        self._channel.lingers = True

    def _refuse(self, problem: Problem) -> None:
        self.error = _RefusalError(problem)
        self._channel.lingers = True
        self.body_rcv = None
        self.content_length = 0
        self.chunked = self.expect_continue = False
        self.connection_close = self.completed = True


class _RefusalError(Error):
    """An error that the server answers by itself, in the words and the form of the app."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.code = problem.status
        self._problem = problem

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status, headers and body."""
        problem = self._problem
        reason = " ".join(problem.message.encode("ascii", "replace").decode("ascii").split())
        headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")]
        if problem.status == 401:
            headers.append(("WWW-Authenticate", 'Basic realm="SteerSeg"'))
        if problem.status == 503:
            headers.append(("Retry-After", "10"))
        body = json.dumps({"error": problem.message, "hint": problem.hint}).encode()
        return f"{problem.status} {reason[:200]}", headers, body


def _most_connections() -> int:
    """Connections that are held at a time: half of the descriptors that this process may open, if they are few."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(_MOST_CONNECTIONS, soft // 2))
