"""``steerseg-backend export``: write a project's annotations as a dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_backend.cli.options import add_setting, open_database, read_settings
from ml_backend.exporting.command import Exporter, ExportOptions, ExportReport, load_tracker
from ml_backend.exporting.provenance import PROVENANCE_FILE
from ml_backend.exporting.splits import Split
from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.web.assemble import correction_refresher
from steerseg.errors import ConfigError

INCOMPLETE = 3
"""Exit status of an export in which something is missing."""

_MOST_LINES = 50
"""Lines of what rules leave out, and of warnings; what is missing is always printed."""


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
    parser.add_argument(
        "--pages", action="store_true", help="export the pages alone of tasks with a stride, and fill nothing"
    )
    parser.add_argument(
        "--split",
        metavar="TRAIN/VAL/TEST",
        help="fractions of the videos in each part, such as 0.8/0.1/0.1; a hash of the video decides "
        "(default: hold nothing out)",
    )
    parser.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="exit with 0 although annotations, or frames between pages, are missing",
    )
    for name in (
        *("data_dir", "preset", "device", "propagation_confidence"),
        *("label_studio_url", "local_files_root"),
    ):
        add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Write the export and print what it holds, and what it does not; 3 where it is incomplete.

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
        pages=options.pages,
        split=None if options.split is None else Split.parse(options.split),
    )
    database = open_database(settings)
    media = MediaLoader(settings)
    try:
        with correction_refresher(settings, database, media) as refresher:
            exporter = Exporter(settings, database, media, refresher, lambda: load_tracker(settings))
            report = exporter.export(
                options.project, chosen, report_line=lambda line: print(line, flush=True)
            )
    finally:
        database.close()
    _print_left_out(report)
    print(f"{chosen.output}: {report}")
    return 0 if report.complete or options.allow_incomplete else INCOMPLETE


def _print_left_out(report: ExportReport) -> None:
    """Print what is missing, what rules leave out, and what is not as one might expect."""
    by_rule = [omission for omission in report.omissions if omission.expected]
    missing = [omission for omission in report.omissions if not omission.expected]
    lines = _shortened("left out", [str(omission) for omission in by_rule])
    lines += _shortened("warning", report.warnings)
    lines += [f"missing: {omission}" for omission in missing]
    if missing:
        lines.append(
            f"the dataset is incomplete: {len(missing)} lines above say what is missing; --allow-incomplete "
            "accepts it"
        )
    for line in lines:
        print(line, file=sys.stderr)


def _shortened(kind: str, found: Sequence[str]) -> list[str]:
    """The first lines of a kind, and how many more there are."""
    lines = [f"{kind}: {one}" for one in found[:_MOST_LINES]]
    if len(found) > _MOST_LINES:
        lines.append(f"{kind}: {len(found) - _MOST_LINES} more, which {PROVENANCE_FILE} lists")
    return lines
