"""``steerseg-backend corrections``: how a project's corrections stand."""

from __future__ import annotations

import argparse
from pathlib import Path

from ml_backend.cli.options import add_setting, open_database, read_settings
from ml_backend.corrections.records import Weights
from ml_backend.corrections.report import export, report
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.set_aside import SetAsideStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write the masks to this folder, a JSON file for each"
    )
    for name in ("data_dir", "propagation_confidence"):
        add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Print how the corrections stand, and write their masks where a folder is given.

    Raises:
        SteerSegError: There is no database, or the folder cannot be written.
    """
    settings = read_settings(options)
    database = open_database(settings)
    try:
        corrections = CorrectionStore(database)
        usable = corrections.corrections(options.project, Weights.from_settings(settings))
        aside = corrections.list_set_aside(options.project)
        print("\n".join(report(options.project, corrections.counts(options.project), usable, aside)))
        if unread := SetAsideStore(database).listed(options.project):
            print("\ncould not be read:")
            print("\n".join(f"  {one.kind} {one.source}: {one.error}" for one in unread))
        if options.export is not None:
            files = export(usable, options.export, settings.propagation_confidence)
            print(f"\n{len(files)} files written to {options.export}")
    finally:
        database.close()
    return 0
