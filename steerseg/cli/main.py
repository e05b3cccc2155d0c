"""``steerseg``: segment a video, evaluate on a dataset, train soft prompts, measure sinks, look at the machine.

Each subcommand is a module with two functions: ``add_<name>`` declares its arguments, ``run_<name>`` runs it and
returns the exit status. Heavy imports happen in the second, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from steerseg import __version__
from steerseg.cli.doctor import add_doctor
from steerseg.cli.evaluate import add_evaluate
from steerseg.cli.segment import add_segment
from steerseg.cli.sinks import add_sinks
from steerseg.cli.train import add_train
from steerseg.errors import SteerSegError

_ERROR, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments after the program's name; the process's own when left out.

    Returns:
        0 on success, also when nothing was found; 2 on an error, which is reported in one line; 130 on Ctrl-C.
    """
    options = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except SteerSegError as error:
        print(f"steerseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _ERROR
    except KeyboardInterrupt:
        print("steerseg: interrupted", file=sys.stderr)
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="steerseg",
        description="Track what a text expression refers to, as masks over a video.",
    )
    parser.add_argument("--version", action="version", version=f"steerseg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in (add_segment, add_evaluate, add_train, add_sinks, add_doctor):
        add_command(commands)
    return parser
