"""``steerseg-backend refine``: ask the running server, or do its work where there is none."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from ml_backend.cli.backend_client import BackendClient, BackendUnreachableError
from ml_backend.cli.options import backend_address, read_settings
from ml_backend.settings import Settings
from steerseg.errors import ConfigError

_POLL = 1.0

Status = Callable[[], dict[str, Any]]


def refine(
    project: int, backend: BackendClient, settings: Settings, *, wait: bool, tell: Callable[[str], None]
) -> bool:
    """Refine a project's champion.

    Args:
        project: The project's number.
        backend: Connection to the server, which may not be running.
        settings: Where the data folder is, for when it is not.
        wait: Whether to wait for the end; without a server, it is waited for in any case.
        tell: Called with a line for a person now and then.

    Returns:
        Whether it ended with a decision, or was asked for and goes on; ``False`` where it failed or was cancelled.

    Raises:
        SteerSegError: The project is unknown, or the server's data folder is not here.
    """
    try:
        status = backend.refine(project)
    except BackendUnreachableError as error:
        tell(f"{error}; refining in this process instead")
        return _here(project, settings, tell)
    tell("the server refines" if wait else "the server refines; --wait would wait for the end")
    return _follow(lambda: backend.refinement(project), status, tell) if wait else True


def _here(project: int, settings: Settings, tell: Callable[[str], None]) -> bool:
    from ml_backend.web.assemble import create_service

    if not settings.database.exists():
        raise ConfigError(
            f"there is no database at {settings.database}; name the server's data folder by --data-dir or "
            "STEERSEG_DATA_DIR, or start the server"
        )
    service = create_service(settings)
    try:
        status = service.refine(str(project))
        time.sleep(_POLL)
        if service.refinements.elsewhere:
            raise ConfigError(
                f"another process refines with the data folder {settings.data_dir}; ask it by --backend-url"
            )
        return _follow(lambda: service.refinement(str(project)), status, tell)
    finally:
        service.close()


def _follow(ask: Status, status: dict[str, Any], tell: Callable[[str], None]) -> bool:
    """Tell of a refinement, and of one that was remembered while it ran, until the last one ends."""
    first = status["requested"]
    told = ""
    while True:
        current = status["current"]
        if current is None:
            ended = [one for one in reversed(status["history"]) if one["id"] >= first]
            for one in ended:
                for note in one["notes"]:
                    tell(f"note: {note}")
                tell(f"{one['state']}: {one['reason']}")
            tell(f"champion: {status['champion'] or 'the preset'}")
            return bool(ended and ended[-1]["state"] not in ("failed", "cancelled"))
        line = f"{current['state']} {current['phase']}".strip()
        if current["total"]:
            line += f", {current['done']} of {current['total']}"
        if line != told:
            told = line
            tell(line)
        time.sleep(_POLL)
        status = ask()


def run_refine(options: argparse.Namespace) -> int:
    from ml_backend.cli.backend_client import BackendClient
    from ml_backend.cli.refine import refine

    settings = read_settings(options)
    backend = BackendClient(backend_address(options, settings), settings)
    done = refine(
        options.project,
        backend,
        settings,
        wait=options.wait,
        tell=lambda line: print(line, flush=True),
    )
    return 0 if done else 1
