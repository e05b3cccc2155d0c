"""What runs of the loop gave, kept as they come, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.refinement.loop import Refined
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import write_json

_SETTINGS = "settings.json"
_RUNS = "runs.jsonl"


class Records:
    """The runs of one setting, a line each, with the prompts that they made beside them.

    Args:
        folder: Where they are kept.
        settings: What all runs have in common, in JSON types.

    Raises:
        ConfigError: The folder holds runs of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        known = self._known_settings()
        different = sorted(k for k in {*known, *self.settings} if known.get(k) != self.settings.get(k))
        if known and different:
            raise ConfigError(
                f"{folder} holds runs of other settings ({', '.join(different)}); remove them or choose "
                "another folder with -o"
            )
        write_json(folder / _SETTINGS, self.settings)

    def _known_settings(self) -> dict[str, Any]:
        path = self.folder / _SETTINGS
        try:
            known: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
        except ValueError as error:
            raise ConfigError(f"{path} is damaged: {error}; remove {self.folder}") from error
        return known

    def read(self) -> dict[tuple[int, int], Refined]:
        """The runs so far, by seed and number of tasks.

        Raises:
            ConfigError: A line is damaged.
        """
        path = self.folder / _RUNS
        found = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                run = Refined(**json.loads(line))
            except (ValueError, TypeError) as error:
                if number == len(lines):
                    break  # the benchmark stopped while it wrote this line
                raise ConfigError(f"{path}, line {number}, is damaged: {error}; remove it") from error
            found[run.seed, run.tasks] = run
        return found

    def add(self, run: Refined) -> None:
        """Note a run."""
        path = self.folder / _RUNS
        if path.is_file() and (text := path.read_text(encoding="utf-8")) and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")  # a line that was never finished
        with path.open("a", encoding="utf-8") as file:
            file.write(run.line() + "\n")

    def prompts(self, seed: int, tasks: int) -> Path:
        """Where the prompts of a run are kept."""
        return self.folder / "prompts" / f"seed-{seed}-{tasks}"
