"""Label Studio and the backend as child processes: started, waited for, and stopped again in order."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from steerseg.errors import ConfigError, SteerSegError

LOCAL_HOST = "127.0.0.1"
LABEL_STUDIO_START_LIMIT = 300.0
"""Seconds. The first start migrates an empty database: 40 s on an idle machine, far more on a busy one."""
BACKEND_START_LIMIT = 120.0
"""Seconds until ``/health`` answers; the models load behind it."""
STOP_LIMIT = 15.0
"""Seconds that a process may take to stop before it is killed."""
_LOG_LINES_SHOWN = 40


class ServerError(SteerSegError):
    """A server did not start, or ended by itself."""


def find_label_studio(repository: Path | None = None) -> Path:
    """The ``label-studio`` command: ``LABEL_STUDIO_COMMAND``, ``.venv-label-studio``, or the search path.

    Raises:
        ConfigError: There is none.
    """
    root = repository or Path.cwd()
    named = os.environ.get("LABEL_STUDIO_COMMAND")
    candidates = (
        [named] if named else [str(root / ".venv-label-studio" / "bin" / "label-studio"), "label-studio"]
    )
    for candidate in candidates:
        found = shutil.which(candidate)
        if found:
            return Path(found).absolute()
    raise ConfigError(
        f"no Label Studio: looked for {' and '.join(candidates)}. Run `make .venv-label-studio` in the "
        "repository, or set LABEL_STUDIO_COMMAND to the label-studio command."
    )


def free_port() -> int:
    """A port of the loopback interface that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind((LOCAL_HOST, 0))
        return int(listener.getsockname()[1])


def require_free_port(port: int, variable: str) -> int:
    """``port``, if a server can listen there.

    Args:
        port: 1 to 65535.
        variable: The environment variable that sets it, for the message.

    Raises:
        ConfigError: Something else listens there, or the port is not allowed.
    """
    with socket.socket() as listener:
        # As servers do, so that a port that was closed a moment ago counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOCAL_HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}); another program probably listens there. "
                f"Stop it, or choose another port: {variable}={port + 1}."
            ) from error
    return port


@dataclass
class ServerProcess:
    """A child process in a session of its own, so that Ctrl-C reaches only the parent, which stops it.

    Attributes:
        name: As it stands in messages.
        command: What to run.
        environment: The whole environment of the process.
        log: File that takes its output.
        ready: Whether the server answers; asked again and again until it says so.
        start_limit: Seconds to wait for that.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], bool]
    start_limit: float
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            ServerError: It ended or did not answer in time; the message holds the end of its log.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.start_limit
        try:
            while not self.ready():
                status = self._process.poll()
                if status is not None:
                    raise ServerError(
                        f"{self.name} ended with status {status} while starting.\n{self.log_end()}"
                    )
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{self.name} did not answer within {self.start_limit:.0f} s.\n{self.log_end()}"
                    )
                time.sleep(0.25)
        except BaseException:
            self.stop()
            raise
        return self

    def log_end(self) -> str:
        """The last lines of the log, with the file's name."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"--- end of {self.log}", *lines[-_LOG_LINES_SHOWN:], "---"])

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id. Raises ``ServerError`` where it was never started."""
        if self._process is None:
            raise ServerError(f"{self.name} was not started.")
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end, and kill whatever of it is left after a while. Harmless when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):  # then it is killed with its group
                process.wait(STOP_LIMIT)
        with contextlib.suppress(ProcessLookupError):  # nothing is left
            os.killpg(process.pid, signal.SIGKILL)  # children that outlived it, such as a model process
        process.wait()

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass
class LabelStudioServer:
    """A private Label Studio with one account.

    Attributes:
        data_dir: Folder of its database, uploads and log.
        files_root: Folder whose files it may serve (``/data/local-files/``).
        port: Port of the loopback interface.
        user: Sign-in name of the account.
        password: Its password.
        token: Its legacy access token, 40 hexadecimal digits.
        command: The ``label-studio`` command.
        settings: Further settings by environment variable.
    """

    data_dir: Path
    files_root: Path
    port: int
    user: str = "demo@example.com"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9), repr=False)
    token: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    command: Path = field(default_factory=find_label_studio)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOCAL_HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The file that takes its output."""
        return self.data_dir / "label-studio.log"

    def process(self) -> ServerProcess:
        """The server, not yet started."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.files_root.mkdir(parents=True, exist_ok=True)
        environment = {
            **_clean_environment(),
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data_dir.absolute()),
            "LABEL_STUDIO_USERNAME": self.user,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            # Acts when the account's organisation is created, that is at the first start.
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            # Both are needed before a backend on this machine is accepted.
            "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",
            "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.files_root.absolute()),
            # It should talk to nobody but us: no analytics, no error reports, no look for a newer version.
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false",
            "LOG_LEVEL": "WARNING",
            **self.settings,
        }
        return ServerProcess(
            name="Label Studio",
            command=[
                *[str(self.command), "start", "--no-browser", "--internal-host", LOCAL_HOST],
                *["--port", str(self.port), "--host", self.url],
            ],
            environment=environment,
            log=self.log,
            ready=lambda: answers(f"{self.url}/health"),
            start_limit=LABEL_STUDIO_START_LIMIT,
        )


@dataclass
class BackendServer:
    """``steerseg-backend serve`` beside that Label Studio.

    Attributes:
        data_dir: Folder of its database, cached media and log.
        port: Port of the loopback interface.
        label_studio: The Label Studio that it serves.
        preset: Name or folder of the preset.
        webhook_secret: What webhooks must bring.
        settings: Further settings by environment variable (``STEERSEG_...``).
    """

    data_dir: Path
    port: int
    label_studio: LabelStudioServer
    preset: str = "demo"
    webhook_secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOCAL_HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The file that takes its output."""
        return self.data_dir / "backend.log"

    def environment(self) -> dict[str, str]:
        """The environment of every ``steerseg-backend`` command that belongs to this server."""
        return {
            **_clean_environment(),
            "STEERSEG_HOST": LOCAL_HOST,
            "STEERSEG_PORT": str(self.port),
            "STEERSEG_DATA_DIR": str(self.data_dir.absolute()),
            "STEERSEG_PRESET": self.preset,
            "STEERSEG_LABEL_STUDIO_URL": self.label_studio.url,
            "STEERSEG_LABEL_STUDIO_API_KEY": self.label_studio.token,
            "STEERSEG_WEBHOOK_SECRET": self.webhook_secret,
            **self.settings,
        }

    def command(self, *arguments: str) -> list[str]:
        """``steerseg-backend`` with arguments, run by this interpreter."""
        return [sys.executable, "-m", "ml_backend.cli", *arguments]

    def process(self) -> ServerProcess:
        """The server, not yet started."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        return ServerProcess(
            name="the backend",
            command=self.command("serve"),
            environment=self.environment(),
            log=self.log,
            ready=lambda: answers(f"{self.url}/health"),
            start_limit=BACKEND_START_LIMIT,
        )


def answers(url: str) -> bool:
    """Whether a GET of ``url`` succeeds within five seconds."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def _clean_environment() -> dict[str, str]:
    """This process's environment without settings of either server that a user may have set for another."""
    foreign = ("LABEL_STUDIO_", "STEERSEG_", "DJANGO_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
