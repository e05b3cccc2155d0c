"""``steerseg-backend``: run the server, import videos, connect projects, predict, refine, export."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

from steerseg.errors import SteerSegError

_DESCRIPTION = "Run the server, import videos, connect projects, predict, refine, export."


@dataclass(frozen=True)
class _Command:
    """A subcommand.

    Attributes:
        module: Its module, with ``add_arguments(parser)`` and ``run(options)``.
        help: What it does, in one line.
    """

    module: str
    help: str


_COMMANDS = {
    "serve": _Command("serve", "run the server and its model process"),
    "import": _Command("import_videos", "make tasks of videos"),
    "connect": _Command("connect", "set a project up for this backend, or update it"),
    "predict": _Command("predict", "ask for predictions of all tasks of a project"),
    "refine": _Command("refine", "refine a project's soft prompts with its corrections"),
    "versions": _Command("versions", "a project's prompt versions: look, promote, roll back"),
    "corrections": _Command("corrections", "list what annotators corrected, and what is amiss"),
    "fleet": _Command("fleet", "the workers of a server and its cluster: what runs where"),
    "export": _Command("export", "write a project's accepted annotations as a dataset"),
    "database": _Command("database", "move between SQLite and PostgreSQL, back up, migrate"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What stands behind the program's name; ``None`` for this process's own.

    Returns:
        The exit status: 0, 1 for partial failure, 2 for an error, 130 for Ctrl-C, 141 where nobody reads on.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parse_arguments(given)
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


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line. Options that are settings name the environment variable that gives them too.

    Only the command that the arguments name is imported, so that ``--help`` is quick and the model process,
    which imports this module again, imports little.

    Args:
        arguments: What stands behind the program's name.

    Returns:
        The options, with the command itself as ``run``.

    Raises:
        SystemExit: The arguments are unusable, or ask for help.
    """
    parser = argparse.ArgumentParser(prog="steerseg-backend", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('steerseg')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, command in _COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help)
        if name == chosen:
            module = import_module(f"ml_backend.cli.{command.module}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser.parse_args(arguments)
