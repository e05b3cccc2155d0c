"""The console commands, found as an installation finds them: by the entry points of ``pyproject.toml``."""

from __future__ import annotations

import contextlib
import importlib
import io
import tomllib
from dataclasses import dataclass
from pathlib import Path

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status.
        output: What it printed.
        errors: What it printed to standard error.
    """

    status: int
    output: str
    errors: str


def run_command(name: str, *arguments: object) -> Ended:
    """Run a console command in this process.

    Args:
        name: Its name, such as ``steerseg``.
        arguments: What stands behind it.
    """
    scripts = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]["scripts"]
    module, _, function = scripts[name].partition(":")
    main = getattr(importlib.import_module(module), function)
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    return Ended(int(status or 0), output.getvalue(), errors.getvalue())
