"""Running the app: one process with many threads, beside the model process it owns."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
import sys
from functools import partial

from ml_backend.settings import Settings
from ml_backend.web.assemble import create_service
from ml_backend.web.intake import Intake
from ml_backend.web.listener import Listener
from ml_backend.web.standby import StandbyApp
from steerseg.errors import ConfigError

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that requests in flight have to end after SIGTERM."""

_SWITCH_SECONDS = 0.0005
"""That a thread keeps the interpreter while others wait for it, a tenth of Python's own choice. Whoever listens needs
it some ten times for each request, and each time waits for every busy thread."""


class Server:
    """The app of one service, and what listens for it.

    One process: it owns the queue and the models. Its threads answer requests, and the models work in a process of
    their own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def run(self) -> None:
        """Answer requests until SIGTERM or SIGINT.

        Raises:
            SteerSegError: It cannot start.
        """
        self._settings.logging_setup.apply()
        sys.setswitchinterval(_SWITCH_SECONDS)
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a line for every request that waits
        with contextlib.closing(StandbyApp(self._settings, partial(create_service, self._settings))) as app:
            app.start()
            listener = Listener(
                app,
                address=_bind_address(self._settings),
                threads=self._settings.threads,
                intake=Intake(self._settings),
            )

            def stop(number: int, _frame: object) -> None:
                log.info("stopping: %s", signal.Signals(number).name)
                listener.stop()

            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop)
            log.info("listening on http://%s", _bind_address(self._settings))
            listener.serve(GRACE)


def require_free_address(settings: Settings) -> None:
    """Say clearly that the server cannot listen, before anything is started.

    Raises:
        ConfigError: Something else listens there, or the address is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"cannot listen on {settings.host}, which is no address of this machine; expected one of its own, "
                "or 0.0.0.0 for all of them (--host, STEERSEG_HOST)"
            ) from error
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror or error}); another "
            "program may listen there: stop it, or choose another port (--port, STEERSEG_PORT)"
        ) from error


def _bind_address(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"
