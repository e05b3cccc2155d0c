"""``steerseg-backend refine``: ask the running server, or do its work where there is none."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from ml_backend.cli.backend_client import BackendBusyError, BackendClient, BackendUnreachableError
from ml_backend.cli.options import add_setting, backend_address, read_settings, require_database
from ml_backend.database.server_lock import server_lock
from ml_backend.settings import Settings
from ml_backend.web.assemble import create_service
from steerseg.errors import ConfigError

_POLL = 1.0
_PATIENCE = 300
"""Times that an answer may fail to come before the command gives up: a server takes a while to start again."""

Status = Callable[[], dict[str, Any]]


def refine(
    project: int, backend: BackendClient, settings: Settings, *, wait: bool, report: Callable[[str], None]
) -> bool:
    """Refine a project's champion.

    Args:
        project: The project's number.
        backend: Connection to the server, which may not be running.
        settings: Where the data folder is, for when it is not.
        wait: Whether to wait for the end; without a server, it is waited for in any case.
        report: Called with a line for a person now and then.

    Returns:
        Whether it ended with a decision, or was asked for and goes on; ``False`` where it failed or was cancelled.

    Raises:
        SteerSegError: The project is unknown, or the server's data folder is not here.
    """
    try:
        status = backend.refine(project)
    except BackendUnreachableError as error:
        report(f"{error}; refining in this process instead")
        return _here(project, settings, report)
    report("the server refines" if wait else "the server refines; --wait would wait for the end")
    return _follow(lambda: backend.refinement(project), status, report) if wait else True


def _here(project: int, settings: Settings, report: Callable[[str], None]) -> bool:
    require_database(settings)
    lock = server_lock(settings.database, settings.data_dir)
    # Beside a server of the same folder, the lock of its refinements decides below.
    if not lock.lasting and not lock.acquire():
        raise ConfigError(f"another server works with {lock.what}; ask it by --backend-url")
    service = create_service(settings, lock.term)
    try:
        requested = service.refine(str(project)).id
        time.sleep(_POLL)
        if service.refinements.elsewhere:
            raise ConfigError(
                f"another process refines with the data folder {settings.data_dir}; ask it by --backend-url"
            )

        def ask() -> dict[str, Any]:
            return service.refinement(str(project)).to_json()

        return _follow(ask, {"requested": requested, **ask()}, report)
    finally:
        service.close()
        lock.release()


def _follow(ask: Status, status: dict[str, Any], report: Callable[[str], None]) -> bool:
    """Report on a refinement, and on one that was asked for while it ran, until the last one ends."""
    first = status["requested"]
    last_line = ""
    while True:
        current = status["current"]
        if current is None:
            ended = [one for one in reversed(status["history"]) if one["id"] >= first]
            for one in ended:
                for note in one["notes"]:
                    report(f"note: {note}")
                report(f"{one['state']}: {one['reason']}")
            report(f"champion: {status['champion'] or 'the preset'}")
            return bool(ended and ended[-1]["state"] not in ("failed", "cancelled"))
        line = f"{current['state']} {current['phase']}".strip()
        if current["total"]:
            line += f", {current['done']} of {current['total']}"
        if line != last_line:
            last_line = line
            report(line)
        time.sleep(_POLL)
        status = _ask_again(ask, report)


def _ask_again(ask: Status, report: Callable[[str], None]) -> dict[str, Any]:
    """Ask how it stands; an answer that fails to come says nothing of the refinement, so it is asked for again.

    Raises:
        BackendError: None came for a long time.
    """
    for attempt in range(_PATIENCE):
        try:
            return ask()
        except (BackendUnreachableError, BackendBusyError) as error:
            if attempt == 0:
                report(f"{error}; asking again")
            time.sleep(_POLL)
    return ask()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument("--wait", action="store_true", help="wait for the end and say how it went")
    parser.add_argument("--backend-url", help="address of the running backend (default: host and port)")
    for name in ("host", "port", "data_dir", "preset", "device", "label_studio_url"):
        add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Refine the project's champion; 1 where the refinement failed or was cancelled.

    Raises:
        SteerSegError: The project is unknown, or the server's data folder is not here.
    """
    settings = read_settings(options)
    backend = BackendClient(backend_address(options, settings), settings)
    ended_well = refine(
        options.project,
        backend,
        settings,
        wait=options.wait,
        report=lambda line: print(line, flush=True),
    )
    return 0 if ended_well else 1
