"""``steerseg-backend serve``: run the server."""

from __future__ import annotations

import argparse

from ml_backend.cli.options import SECRETS, add_setting, read_settings
from ml_backend.database.database import Database
from ml_backend.database.server_lock import server_lock
from ml_backend.models.fingerprint import preset_version
from ml_backend.settings import Settings
from ml_backend.web.door import require_protection
from ml_backend.web.serving import Server, require_free_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: every setting that is no secret."""
    for name in Settings.model_fields:
        if name not in SECRETS:
            add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Run the server until it is stopped.

    Raises:
        SteerSegError: It cannot start.
    """
    settings = read_settings(options)
    settings.logging_setup.apply()
    # What would make the worker fail at once is said here in one line, not in a traceback.
    require_free_address(settings)
    require_protection(settings)
    preset_version(settings.preset)
    lock = server_lock(settings.database, settings.data_dir)
    if lock.acquire():  # else this server stands by
        Database(settings.database).close()
    lock.release()
    Server(settings).run()
    return 0
