"""Count what keeps the house readable: ``python tools/house.py`` fails where a limit is passed.

The limits: no product module above 600 lines, no function above 60, no class above 20 public methods, at most 10
modules directly in ``ml_backend/`` and 16 in ``steerseg/``. Kernels and data tables are measured by other rules and
are listed in ``EXEMPT`` with their reason.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODULE_LINES = 600
FUNCTION_LINES = 60
PUBLIC_METHODS = 20
MODULES_IN = {"ml_backend": 10, "steerseg": 16}
PRODUCT = ("ml_backend", "steerseg")
EXEMPT = {
    "steerseg/attention/kernels.py": "kernels",
    "steerseg/demo/catalogue.py": "a data table",
}
"""Modules whose length and functions do not count, with the reason."""


@dataclass(frozen=True)
class Excess:
    """One thing that is larger than its limit.

    Attributes:
        where: Path, and line where there is one.
        what: What was counted, and how much of it there is.
        limit: How much there may be.
    """

    where: str
    what: str
    limit: int

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; at most {self.limit}"


def excesses(root: Path) -> Iterator[Excess]:
    """Everything below ``root`` that passes a limit.

    Args:
        root: The repository.
    """
    for package, most in MODULES_IN.items():
        modules = [path for path in (root / package).glob("*.py") if path.name != "__init__.py"]
        if len(modules) > most:
            yield Excess(package, f"{len(modules)} modules", most)
    for package in PRODUCT:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name not in EXEMPT:
                yield from _in_module(name, path.read_text(encoding="utf-8"))


def _in_module(name: str, text: str) -> Iterator[Excess]:
    lines = text.count("\n")
    if lines > MODULE_LINES:
        yield Excess(name, f"{lines} lines", MODULE_LINES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield Excess(f"{name}:{node.lineno}", f"{node.name} has {length} lines", FUNCTION_LINES)
        elif isinstance(node, ast.ClassDef):
            public = [
                part.name
                for part in node.body
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and not part.name.startswith("_")
            ]
            if len(public) > PUBLIC_METHODS:
                yield Excess(
                    f"{name}:{node.lineno}", f"{node.name} has {len(public)} public methods", PUBLIC_METHODS
                )


def main() -> int:
    """Print every excess; return 1 where there is one."""
    found = list(excesses(Path(__file__).resolve().parents[1]))
    for excess in found:
        print(excess)
    if not found:
        print("modules, functions and classes are within their limits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
