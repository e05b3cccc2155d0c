"""``steerseg-backend import``: make tasks of videos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ml_backend.cli.options import add_setting, label_studio_client, positive, read_settings
from ml_backend.importing.strides import Cut, Stride, read_stride
from ml_backend.importing.tasks import MAX_PAGES, import_videos
from ml_backend.settings import ENV_PREFIX
from steerseg.cli.progress import ProgressBar
from steerseg.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument("sources", nargs="*", help="video files, folders (of videos or of frames), patterns")
    parser.add_argument("--expression", help="what to track in all of them (default: left to the project)")
    parser.add_argument(
        "--csv", type=Path, help="table with the columns 'video', 'expression' and perhaps 'stride' instead"
    )
    parser.add_argument(
        "--kind",
        choices=("auto", "frames", "video", "both"),
        default="auto",
        help="what tasks consist of (default: what the project can show)",
    )
    parser.add_argument(
        "--stride",
        type=_stride,
        default=1,
        metavar="N|auto",
        help="take one frame in so many, for pages and for videos; auto: the smallest number with which a video "
        "fits into a task",
    )
    parser.add_argument(
        "--max-pages", type=positive, default=MAX_PAGES, help="most pages of a task (default: %(default)s)"
    )
    parser.add_argument(
        "--split-pages",
        type=positive,
        metavar="N",
        help="make several tasks of N pages (or frames of a video) of each video that has more",
    )
    parser.add_argument("--fps", type=float, help="frame rate of folders of frames (default: 25)")
    parser.add_argument(
        "--document-root",
        type=Path,
        help="Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT as this machine sees it "
        f"[{ENV_PREFIX}LOCAL_FILES_ROOT]",
    )
    parser.add_argument(
        "--media-dir", type=Path, help="where frames and videos are written (default: its folder 'steerseg')"
    )
    for name in ("label_studio_url", "expression_key"):
        add_setting(parser, name)


def _stride(text: str) -> Stride:
    try:
        return read_stride(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1 or more, or auto") from None


def run(options: argparse.Namespace) -> int:
    """Import the videos and print a line for each task.

    Returns:
        0, or 1 where something that was asked for was not imported.

    Raises:
        SteerSegError: Nothing can be imported.
    """
    settings = read_settings(options)
    root = options.document_root or settings.local_files_root
    if root is None:
        raise ConfigError(
            "Label Studio serves imported frames from its local-files root, which is not known; give "
            "--document-root or set STEERSEG_LOCAL_FILES_ROOT"
        )
    if not root.is_dir():
        raise ConfigError(
            f"{root} is no folder; expected Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT as this machine "
            "sees it (--document-root, STEERSEG_LOCAL_FILES_ROOT)"
        )
    with ProgressBar() as progress:
        report = import_videos(
            label_studio_client(settings),
            options.project,
            options.sources,
            media_dir=options.media_dir or root / "steerseg",
            document_root=root,
            expression=options.expression,
            csv_file=options.csv,
            kind=options.kind,
            cut=Cut(options.stride, options.max_pages, options.split_pages),
            fps=options.fps,
            expression_key=settings.expression_key,
            progress=progress,
        )
    print("\n".join(report.lines()))
    for file in report.passed_over:
        print(f"passed over: {file}", file=sys.stderr)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in report.problems:
        print(f"not imported: {problem}", file=sys.stderr)
    print(
        f"{len(report.tasks)} tasks made, {len(report.problems)} not imported, "
        f"{len(report.passed_over)} files passed over",
        file=sys.stderr,
    )
    return 1 if report.problems else 0
