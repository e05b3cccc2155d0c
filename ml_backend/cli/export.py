"""``steerseg-backend export``: write a project's annotations as a dataset."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ml_backend.cli.options import add_setting, open_database, read_settings
from ml_backend.exporting.command import Exporter, ExportOptions, load_tracker
from ml_backend.label_studio.task_media import MediaLoader
from steerseg.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument(
        "--format",
        required=True,
        choices=("coco", "youtube-vos", "davis", "mots", "yolo-seg"),
        help="what to write",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="a new folder (default: export-PROJECT-FORMAT)"
    )
    parser.add_argument(
        "--categories",
        choices=("label", "expression"),
        default="label",
        help="what classes are: labels in Label Studio, or expressions (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to write the pictures too",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="FOLDER",
        help="folder of the original videos, to fill the frames between the pages of tasks with a stride",
    )
    for name in (
        *("data_dir", "preset", "device", "propagation_confidence"),
        *("label_studio_url", "local_files_root"),
    ):
        add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Write the export and print what it holds; 1 where something is left out.

    Raises:
        SteerSegError: It cannot be written.
    """
    settings = read_settings(options)
    if options.videos is not None and not options.videos.is_dir():
        raise ConfigError(f"{options.videos} is no folder; --videos expects that of the original videos")
    chosen = ExportOptions(
        format=options.format,
        output=options.output or Path(f"export-{options.project}-{options.format}"),
        categories=options.categories,
        images=options.images,
        videos=options.videos,
    )
    database = open_database(settings)
    try:
        exporter = Exporter(settings, database, MediaLoader(settings), lambda: load_tracker(settings))
        report = exporter.export(options.project, chosen, report_line=lambda line: print(line, flush=True))
    finally:
        database.close()
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{chosen.output}: {report}")
    return 1 if report.left_out else 0
