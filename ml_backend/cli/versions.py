"""``steerseg-backend versions``: list, promote, roll back, export and import prompt versions."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.cli.corrections import open_store
from ml_backend.cli.options import add_setting, read_settings
from ml_backend.settings import Settings

if TYPE_CHECKING:
    from ml_backend.refinement.versions import PromptLine


def add_versions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    actions = parser.add_subparsers(metavar="ACTION")
    parser.set_defaults(run=_versions, action="list")
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


def _versions(options: argparse.Namespace) -> int:
    from ml_backend.models.fingerprint import model_fingerprint
    from ml_backend.refinement.version_card import card_of, describe_versions

    settings = read_settings(options)
    project: int = options.project
    with _prompt_line(settings, model_fingerprint(settings.preset)) as line:
        match options.action:
            case "list":
                print("\n".join(describe_versions(line.versions.versions(project))))
            case "show":
                card = card_of(line.versions.version(project, options.name))
                print(json.dumps(card.to_json(), indent=2))
            case "promote":
                line.versions.promote(project, options.name, by="the command line")
                print(f"project {project} uses {options.name} now")
            case "rollback":
                print(f"project {project} uses {line.versions.roll_back(project)} now")
            case "export":
                from steerseg.runtime.artefacts import write_bytes

                write_bytes(options.file, line.export(project, options.name))
                print(f"wrote {options.file}")
            case "import":
                version_ = line.import_(project, options.file)
                print(f"added {version_.name}; promote it with `versions {project} promote {version_.name}`")
    return 0


@contextlib.contextmanager
def _prompt_line(settings: Settings, model: str) -> Iterator[PromptLine]:
    """The prompt versions of a data folder, whether its server runs or not.

    Raises:
        ConfigError: There is no database.
    """
    from ml_backend.refinement.version_store import VersionStore
    from ml_backend.refinement.versions import PromptLine

    store = open_store(settings)
    try:
        yield PromptLine(VersionStore(store), settings.data_dir, model)
    finally:
        store.close()
