"""Golden answers: JSON files that a later run must reproduce; see ``update.py`` for when they may be rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"
_MOST_DIFFERENCES = 20


@dataclass(frozen=True)
class Golden:
    """Compares values with the golden files, or rewrites the files.

    Attributes:
        updating: Whether files are rewritten.
    """

    updating: bool

    def check(self, name: str, value: Any) -> None:
        """Require that a JSON-ready value equals the golden one, or make it the golden one.

        Args:
            name: Path of the file below the folder, without its suffix.
            value: The value, normalised.
        """
        if self.updating:
            self.write(name, value)
            return
        differences = []
        for difference in differing(self.read(name), json.loads(json.dumps(value))):
            differences.append(difference)
            if len(differences) == _MOST_DIFFERENCES:
                break
        assert not differences, f"{name} differs from its golden answer:\n" + "\n".join(differences)

    def read(self, name: str) -> Any:
        """The golden value."""
        return json.loads(_path(name).read_text("utf-8"))

    def write(self, name: str, value: Any) -> None:
        """Make a value the golden one."""
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def _path(name: str) -> Path:
    return FOLDER / f"{name}.json"


def differing(expected: Any, found: Any, where: str = "$") -> Iterator[str]:
    """Where two JSON values differ, one line for each place."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if key not in found:
                yield f"{where}.{key}: missing, expected {_short(expected[key])}"
            elif key not in expected:
                yield f"{where}.{key}: unexpected {_short(found[key])}"
            else:
                yield from differing(expected[key], found[key], f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: {len(found)} items, expected {len(expected)}"
        for index, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from differing(one, other, f"{where}[{index}]")
    elif type(expected) is not type(found) or expected != found:
        yield f"{where}: {_short(found)}, expected {_short(expected)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}…"
