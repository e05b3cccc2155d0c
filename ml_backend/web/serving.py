"""Running the app under gunicorn: one worker process with many threads, beside the model process it owns."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn.app.base import BaseApplication

from ml_backend.logs import configure_logging
from ml_backend.settings import Settings
from steerseg.errors import ConfigError

if TYPE_CHECKING:
    from ml_backend.web.standby import StandbyApp

GRACE = 5
"""Seconds that requests in flight have to end after SIGTERM."""


class Server(BaseApplication):
    """Gunicorn with the app of one service.

    One worker, since it owns the queue and the models; its threads answer requests, and the models work in a
    process of their own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._close: Callable[[], None] | None = None
        super().__init__()

    def load_config(self) -> None:
        """Configure gunicorn."""
        options = {
            "bind": _bind_address(self._settings),
            "workers": 1,
            "worker_class": "gthread",
            "threads": self._settings.threads,
            # The worker's main thread beats all the time; only a frozen process is silent for so long.
            "timeout": 300,
            "graceful_timeout": GRACE,
            "keepalive": 5,
            "loglevel": self._settings.log_level.lower(),
            "worker_exit": self._end,
            "proc_name": "steerseg-backend",
        }
        if Path("/dev/shm").is_dir():
            options["worker_tmp_dir"] = "/dev/shm"  # a heartbeat on a busy disk could be late
        if "control_socket_disable" in self.cfg.settings:
            options["control_socket_disable"] = True
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> StandbyApp:
        """Build service and app; runs in the worker, so that nothing of it is ever forked."""
        configure_logging(self._settings.log_level)
        from ml_backend.web.assemble import create_service
        from ml_backend.web.standby import StandbyApp

        app = StandbyApp(self._settings, lambda: create_service(self._settings))
        app.start()
        self._close = app.close
        return app

    def _end(self, _server: object, _worker: object) -> None:
        if self._close is not None:
            self._close()


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
