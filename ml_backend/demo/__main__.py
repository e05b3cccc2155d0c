"""``python -m ml_backend.demo``: what ``make demo`` runs.

Starts Label Studio, then the backend with the preset ``demo``, makes an account and two projects, imports
sample videos, pre-annotates them, checks what was stored, and stays until Ctrl-C. Everything it writes lies
in one folder, and a second run goes on with it.

Environment: ``LABEL_STUDIO_PORT`` (8080), ``BACKEND_PORT`` (9090), ``DEMO_EXIT`` (``1``: check and stop),
``DEMO_DIR`` (``.demo``), ``DEMO_PRESET`` (``demo``), ``LABEL_STUDIO_COMMAND``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from ml_backend.cli.backend_client import BackendClient
from ml_backend.cli.colours import compare_colours
from ml_backend.cli.connect import connect
from ml_backend.cli.predict import predict_project
from ml_backend.demo.samples import Sample, write_samples
from ml_backend.demo.servers import (
    BackendServer,
    LabelStudioServer,
    ServerError,
    ServerProcess,
    find_label_studio,
    require_free_port,
)
from ml_backend.demo.verifying import verify_project
from ml_backend.importing.tasks import import_videos
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.settings import load_settings
from steerseg.errors import ConfigError, SteerSegError

REPOSITORY = Path(__file__).parents[2]
USER = "demo@example.com"
PROJECTS = (("Masks on frames", "frames.xml"), ("Box tracks on videos", "video.xml"))
"""Titles of the demo's projects and their labelling configurations."""
_WATCH_INTERVAL = 1.0  # seconds


@dataclass(frozen=True)
class Account:
    """The secrets of the demo, made at its first start and kept in its folder."""

    user: str
    password: str
    token: str
    webhook_secret: str


@dataclass(frozen=True)
class Options:
    """What the environment says."""

    directory: Path
    label_studio_port: int
    backend_port: int
    stop_when_done: bool
    preset: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Options:
        """Read the environment.

        Raises:
            ConfigError: A port is not a number.
        """
        return cls(
            directory=Path(environment.get("DEMO_DIR") or ".demo").absolute(),
            label_studio_port=_port(environment, "LABEL_STUDIO_PORT", 8080),
            backend_port=_port(environment, "BACKEND_PORT", 9090),
            stop_when_done=environment.get("DEMO_EXIT", "") not in ("", "0"),
            preset=environment.get("DEMO_PRESET") or "demo",
        )


def main() -> int:
    """Run the demo and return its exit status: 0 when all is well, 1 when something is not."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may start a job in the background deaf to Ctrl-C
        signal.signal(number, _interrupt)
    try:
        options = Options.read(os.environ)
        with contextlib.ExitStack() as stack:
            return _run(options, stack)
    except SteerSegError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What was labelled is kept; `make demo` goes on with it.")
        return 0


def _run(options: Options, stack: contextlib.ExitStack) -> int:
    for port, variable in (
        (options.label_studio_port, "LABEL_STUDIO_PORT"),
        (options.backend_port, "BACKEND_PORT"),
    ):
        require_free_port(port, variable)
    command = find_label_studio(REPOSITORY)
    account = load_account(options.directory / "account.json")
    label_studio = LabelStudioServer(
        data_dir=options.directory / "label-studio",
        files_root=options.directory / "files",
        port=options.label_studio_port,
        user=account.user,
        password=account.password,
        token=account.token,
        command=command,
    )
    backend = BackendServer(
        data_dir=options.directory / "backend",
        port=options.backend_port,
        label_studio=label_studio,
        preset=options.preset,
        webhook_secret=account.webhook_secret,
    )
    earlier = backend.log.stat().st_size if backend.log.is_file() else 0
    servers = start_servers(label_studio, backend, stack)
    samples = write_samples(label_studio.files_root / "samples", command, _report)
    client = LabelStudioClient(label_studio.url, account.token)
    stack.callback(client.close)
    projects = {title: _project(client, backend, title, config, samples) for title, config in PROJECTS}
    problems = [*_pre_annotate(client, backend, projects), *warnings_in(backend.log, earlier)]
    print()
    if problems:
        print("\n".join(("The demo is up, but not all is well:", *(f"  {problem}" for problem in problems))))
    else:
        print(f"Every task of {len(projects)} projects has valid predictions.")
    print(
        f"\n  Label Studio   {label_studio.url}/projects"
        f"\n  user           {account.user}"
        f"\n  password       {account.password}"
        f"\n  backend        {backend.url}\n"
        f"\nOpen the project {PROJECTS[0][0]!r} and its first task. Switch on Auto-Annotation and Auto-Accept"
        "\nSuggestions below the picture: Label Studio keeps both in your browser, no project can preset them."
        f"\nThen type, for example, “{samples[0].expression}”, and press Enter.\n"
    )
    if not options.stop_when_done:
        print("Ctrl-C stops both servers.")
        _stay(servers)
    return 1 if problems else 0


def start_servers(
    label_studio: LabelStudioServer, backend: BackendServer, stack: contextlib.ExitStack
) -> tuple[ServerProcess, ...]:
    """Start both servers; the stack stops them.

    Label Studio comes first: at its start, a backend that knows projects reads them there.

    Args:
        label_studio: Label Studio.
        backend: The backend.
        stack: What stops them at its end, the last one first.

    Raises:
        ServerError: One of them did not start.
    """
    servers = (label_studio.process(), backend.process())
    for server, note in zip(
        servers, (" (the first start makes a database and takes a minute)", ""), strict=True
    ):
        _report(f"Starting {server.name}{note}")
        stack.callback(_stop, server)
        server.start()
    return servers


def load_account(path: Path) -> Account:
    """Read the account, or make one.

    Raises:
        ConfigError: The file is there, but not what it should be.
    """
    if path.is_file():
        try:
            return Account(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{path} is damaged; remove {path.parent} to begin the demo anew (`make clean`)."
            ) from error
    account = Account(USER, secrets.token_urlsafe(9), secrets.token_hex(20), secrets.token_hex(16))
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(account), file, indent=1)
    return account


def _project(
    client: LabelStudioClient, backend: BackendServer, title: str, config: str, samples: list[Sample]
) -> int:
    """Make and connect a project and import the samples that it lacks."""
    media = backend.label_studio.files_root / "media"
    media.mkdir(parents=True, exist_ok=True)  # Label Studio refuses a storage whose folder is not there
    connection = connect(
        client,
        backend.url,
        title=title,
        label_config=(REPOSITORY / "label_config" / config).read_text(encoding="utf-8"),
        storage_path=str(media),
        webhook_secret=backend.webhook_secret,
    )
    for warning in connection.warnings:
        _report(f"Note: {warning}")
    there = {str(task["data"].get("expression")) for task in client.tasks.of_project(connection.project)}
    wanted = [sample for sample in samples if sample.expression not in there]
    if wanted:
        _report(f"Importing {len(wanted)} videos into the project {title!r}")
    for sample in wanted:
        import_videos(
            client,
            connection.project,
            [sample.path],
            media_dir=media,
            document_root=backend.label_studio.files_root,
            expression=sample.expression,
        )
    colours = compare_colours(client, connection.project, load_settings(), write=True)
    for line in (*colours.steps, *colours.warnings):
        _report(f"{title}: {line}")
    return connection.project


def _pre_annotate(
    client: LabelStudioClient, backend: BackendServer, projects: Mapping[str, int]
) -> list[str]:
    """Ask for the predictions of all tasks, and say what is wrong with what was stored."""
    asked = BackendClient(backend.url, load_settings())
    problems: list[str] = []
    for title, project in projects.items():
        _report(f"Pre-annotating the project {title!r}")
        summary = predict_project(client, asked, project, concurrency=1)
        problems += [f"{title}: task {task}: {reason}" for task, reason in summary.failures]
        failed = {task for task, _ in summary.failures}
        problems += [
            f"{title}: {problem}"
            for problem in verify_project(client, project, model_version=summary.version, without=failed)
        ]
    return problems


def warnings_in(log: Path, begin: int) -> list[str]:
    """The warnings and errors in a server's log.

    Args:
        log: The log.
        begin: Bytes of it that are older.
    """
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return [f"{log.name}: {line}" for line in lines if re.search(r" (WARNING|ERROR|CRITICAL) ", line)]


def _stay(servers: tuple[ServerProcess, ...]) -> None:
    """Wait for Ctrl-C.

    Raises:
        ServerError: A server ended by itself.
    """
    while True:
        for server in servers:
            if not server.alive:
                raise ServerError(f"{server.name} ended by itself.\n{server.log_end()}")
        time.sleep(_WATCH_INTERVAL)


def _stop(server: ServerProcess) -> None:
    if server.alive:
        _report(f"Stopping {server.name}")
    server.stop()


def _port(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ConfigError(f"{variable} is {text!r}; expected a port from 1 to 65535.")
    return int(text)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Take either signal as Ctrl-C, so that the servers are stopped."""
    raise KeyboardInterrupt


def _report(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
