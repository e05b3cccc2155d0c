"""``steerseg-backend corrections``: how a project's corrections stand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ml_backend.cli.options import read_settings
from ml_backend.settings import ENV_PREFIX, Settings
from steerseg.errors import ConfigError

if TYPE_CHECKING:
    from ml_backend.database.database import Database


def open_store(settings: Settings) -> Database:
    """The database of a data folder.

    Raises:
        ConfigError: There is none.
    """
    from ml_backend.database.database import Database

    if not settings.database.exists():
        raise ConfigError(
            f"there is no database at {settings.database}; name the server's data folder by --data-dir or "
            f"{ENV_PREFIX}DATA_DIR"
        )
    return Database(settings.database)


def run_corrections(options: argparse.Namespace) -> int:
    from ml_backend.corrections.records import Weights
    from ml_backend.corrections.report import export, report
    from ml_backend.corrections.store import CorrectionStore

    settings = read_settings(options)
    database = open_store(settings)
    try:
        kept = CorrectionStore(database)
        usable = kept.corrections(options.project, Weights.from_settings(settings))
        aside = kept.list_set_aside(options.project)
        print("\n".join(report(options.project, kept.counts(options.project), usable, aside)))
        if options.export is not None:
            files = export(usable, options.export, settings.propagation_confidence)
            print(f"\n{len(files)} files written to {options.export}")
    finally:
        database.close()
    return 0
