"""A server that stands by while another one works with its database, and takes over when that one ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, jsonify, request

from ml_backend.background import BackgroundLoop
from ml_backend.database.errors import StoreError
from ml_backend.database.kinds import kind_of
from ml_backend.database.server_lock import server_lock
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.settings import Settings
from ml_backend.web.access import restrict_access
from ml_backend.web.app import create_app
from ml_backend.web.door import guard_door
from ml_backend.web.errors import answer_errors

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

_POLL = 0.5  # seconds between two looks at the lock
_PAUSE = 5.0  # seconds after a service that could not be built, or a database that could not be reached


class StandbyApp:
    """The WSGI application of a server: that of its service, as soon as it alone has the database.

    A server that has lost the database to another one closes its service and stands by again.

    Args:
        settings: The settings in force.
        build: Builds and starts the service of a term; see :class:`~ml_backend.database.server_lock.ServerLock`.
    """

    def __init__(self, settings: Settings, build: Callable[[int | None], Service]) -> None:
        self._settings = settings
        self._build = build
        self._lock = server_lock(settings.database, settings.data_dir)
        self._service: Service | None = None
        self._loop = BackgroundLoop("stand-by", self._turn, pause=_PAUSE)
        self._waiting = self._create_waiting_app()
        self._app = self._waiting

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        return self._app(environ, start_response)

    def start(self) -> None:
        """Begin to serve, or to stand by.

        Raises:
            SteerSegError: The service cannot be built.
        """
        if self._take_over():
            if self._lock.lasting:
                return
        else:
            log.warning("another server works with %s: this one stands by until it ends", self._lock.what)
        self._loop.start()

    def close(self) -> None:
        """Stop the service, and let another server have the database."""
        self._loop.close()
        self._close_service()
        self._lock.release()

    def _turn(self) -> float | None:
        if self._service is not None:
            self._watch(self._service)
            return _POLL
        if not self._take_over():
            return _POLL
        log.warning("the other server has ended: this one takes over")
        if not self._lock.lasting:
            return _POLL
        self._loop.stop()
        return None

    def _watch(self, service: Service) -> None:
        """Go on while the database is this server's, and while nobody can say: then nothing is written either."""
        try:
            held = self._lock.held()
        except StoreError as error:
            if not service.database.problem:
                log.warning("%s; this server goes on when it is there again", error)
            service.database.problem = f"{error}; this server goes on when it is there again"
            return
        service.database.problem = ""
        if not held:
            log.error("another server has taken over %s: this one stands by", self._lock.what)
            self._app = self._waiting
            self._close_service()

    def _take_over(self) -> bool:
        """Build the service, if no other server has the database."""
        if not self._lock.acquire():
            return False
        try:
            self._service = self._build(self._lock.term)
            self._app = create_app(self._service)
        except BaseException:
            self._close_service()
            self._lock.release()
            raise
        return True

    def _close_service(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            service.close()

    def _create_waiting_app(self) -> Flask:
        """What answers meanwhile, to those who may ask."""
        app = Flask(__name__, static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = self._settings.max_request_bytes
        guard_door(app, self._settings)
        restrict_access(app, self._settings)
        answer_errors(app)

        @app.before_request
        def stand_by() -> None:
            if request.path != "/health":
                raise RequestError(
                    503,
                    "this server stands by, since another one works with its database",
                    "Ask the other one. This one takes over as soon as that one ends.",
                )

        @app.get("/health")
        def health() -> Response:
            return jsonify(
                {
                    "status": "STANDBY",
                    "model_class": "SteerSeg",
                    "ready": False,
                    "database": kind_of(self._settings.database).name,
                    "loops": [self._loop.status.to_json()],
                }
            )

        return app
