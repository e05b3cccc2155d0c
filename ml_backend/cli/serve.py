"""``steerseg-backend serve``: run the server."""

from __future__ import annotations

import argparse

from ml_backend.cli.options import read_settings


def run_serve(options: argparse.Namespace) -> int:
    # Each command imports what it needs, so that `--help` is quick and the model process imports little.
    from ml_backend.database.database import Database
    from ml_backend.models.fingerprint import preset_version
    from ml_backend.web.serving import Server, require_free_address

    settings = read_settings(options)
    # What would make the worker fail at once is said here in one line, not in a traceback.
    require_free_address(settings)
    preset_version(settings.preset)
    Database(settings.database).close()
    Server(settings).run()
    return 0
