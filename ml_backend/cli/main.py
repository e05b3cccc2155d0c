"""``steerseg-backend``: run the server, import videos, connect projects, predict, refine, export."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ml_backend.cli.connect import add_connect
from ml_backend.cli.corrections import run_corrections
from ml_backend.cli.export import add_export
from ml_backend.cli.import_videos import add_import
from ml_backend.cli.options import (
    SECRETS,
    add_setting,
    positive,
)
from ml_backend.cli.predict import run_predict
from ml_backend.cli.refine import run_refine
from ml_backend.cli.serve import run_serve
from ml_backend.cli.versions import add_versions
from ml_backend.settings import Settings
from steerseg.errors import SteerSegError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for partial failure, 2 for an error, 130 for Ctrl-C,
    141 where nobody reads on."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except SteerSegError as error:
        print(f"steerseg-backend: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def build_parser() -> argparse.ArgumentParser:
    """The command line. Options that are settings say by which environment variable they can be given."""
    parser = argparse.ArgumentParser(prog="steerseg-backend", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('steerseg')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server and its model process")
    for name in Settings.model_fields:
        if name not in SECRETS:
            add_setting(serve, name)
    serve.set_defaults(run=run_serve)

    add_import(commands.add_parser("import", help="make tasks of videos"))
    add_connect(commands.add_parser("connect", help="set a project up for this backend, or update it"))

    predict = commands.add_parser("predict", help="ask for predictions of all tasks of a project")
    predict.add_argument("project", type=int, help="the project's number in Label Studio")
    predict.add_argument("--backend-url", help="address of the running backend (default: host and port)")
    predict.add_argument(
        "--jobs", type=positive, default=2, help="tasks asked for at the same time (default: %(default)s)"
    )
    for name in ("host", "port", "label_studio_url"):
        add_setting(predict, name)
    predict.set_defaults(run=run_predict)

    refine = commands.add_parser("refine", help="refine a project's soft prompts with its corrections")
    refine.add_argument("project", type=int, help="the project's number in Label Studio")
    refine.add_argument("--wait", action="store_true", help="wait for the end and say how it went")
    refine.add_argument("--backend-url", help="address of the running backend (default: host and port)")
    for name in ("host", "port", "data_dir", "preset", "device", "label_studio_url"):
        add_setting(refine, name)
    refine.set_defaults(run=run_refine)

    add_versions(
        commands.add_parser("versions", help="a project's prompt versions: look, promote, roll back")
    )

    corrections = commands.add_parser("corrections", help="list what annotators corrected, and what is amiss")
    corrections.add_argument("project", type=int, help="the project's number in Label Studio")
    corrections.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write the masks to this folder, a JSON file for each"
    )
    for name in ("data_dir", "propagation_confidence"):
        add_setting(corrections, name)
    corrections.set_defaults(run=run_corrections)

    add_export(commands.add_parser("export", help="write a project's accepted annotations as a dataset"))
    return parser
