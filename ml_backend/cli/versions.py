"""``steerseg-backend versions``: list, promote, roll back, export and import prompt versions."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from ml_backend.cli.options import add_setting, open_database, read_settings
from ml_backend.models.fingerprint import model_fingerprint, model_width
from ml_backend.refinement.version_card import card_of, describe_versions
from ml_backend.refinement.version_store import VersionStore
from ml_backend.refinement.versions import PromptLine
from ml_backend.settings import Settings
from steerseg.runtime.artefacts import write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    actions = parser.add_subparsers(metavar="ACTION")
    parser.set_defaults(action="list")
    actions.add_parser("list", help="all versions, which is the default")
    show = actions.add_parser("show", help="data, curve, metrics and lineage of one, as JSON")
    promote = actions.add_parser(
        "promote", help="make one the champion; 'preset' stands for the preset's own"
    )
    rollback = actions.add_parser("rollback", help="make the champion of before the champion again")
    export = actions.add_parser("export", help="write one to a zip file of safetensors and JSON")
    for action in (show, promote, export):
        action.add_argument("name", help="name of the version, from the list")
    export.add_argument("file", type=Path, help="the zip file to write")
    imported = actions.add_parser("import", help="add an exported version to the project, as a candidate")
    imported.add_argument("file", type=Path, help="the zip file, or a folder of its files")
    named = {"show": show, "promote": promote, "rollback": rollback, "export": export, "import": imported}
    for name, action in named.items():
        action.set_defaults(action=name)
    for name in ("data_dir", "preset"):
        add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Do what is asked with the project's prompt versions.

    Raises:
        SteerSegError: A version is unknown, or the data folder cannot be used.
    """
    settings = read_settings(options)
    project: int = options.project
    with _prompt_line(settings) as line:
        match options.action:
            case "list":
                print("\n".join(describe_versions(line.versions.versions(project))))
            case "show":
                card = card_of(line.versions.version(project, options.name))
                print(json.dumps(card.to_json(), indent=2))
            case "promote":
                warning = line.promote(project, options.name, by="the command line")
                if warning:
                    print(f"warning: {warning}", file=sys.stderr)
                print(f"project {project} uses {options.name} now")
            case "rollback":
                print(f"project {project} uses {line.roll_back(project)} now")
            case "export":
                write_bytes(options.file, line.export(project, options.name))
                print(f"wrote {options.file}")
            case "import":
                added = line.import_(project, options.file)
                print(f"added {added.name}; promote it with `versions {project} promote {added.name}`")
                if added.kept_back:
                    print(f"warning: the gate kept it back there: {added.reason}", file=sys.stderr)
                if not line.checks_width:
                    print(
                        "warning: its width could not be checked, for the model is not on this machine yet",
                        file=sys.stderr,
                    )
    return 0


@contextlib.contextmanager
def _prompt_line(settings: Settings) -> Iterator[PromptLine]:
    """The prompt versions of a data folder, whether its server runs or not.

    Raises:
        ConfigError: There is no database.
    """
    database = open_database(settings)
    try:
        preset = settings.preset
        yield PromptLine(
            VersionStore(database), settings.data_dir, model_fingerprint(preset), width=model_width(preset)
        )
    finally:
        database.close()
