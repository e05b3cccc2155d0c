"""``python -m benchmarks.meaning presence|wordings|plurals -o FILE``: ask, keep each answer as a line, print tables.

``--read FILE`` prints the table of answers that are kept already.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel

from benchmarks.meaning.answers import ClipQuestions
from benchmarks.meaning.plurals import PluralRow, describe_plurals, measure_plurals
from benchmarks.meaning.presence import PresenceRow, describe_presence, fit, measure_presence
from benchmarks.meaning.wordings import WordingRow, describe_wordings, load_wordings, measure_wordings
from steerseg.demo.dataset import load_manifest
from steerseg.errors import ConfigError
from steerseg.pipeline import SteerSeg
from steerseg.presets import find_preset, load_preset

ROWS: dict[str, type[BaseModel]] = {"presence": PresenceRow, "plurals": PluralRow, "wordings": WordingRow}
SPLITS = {"presence": "test-presence", "plurals": "test-plurals", "wordings": "measured"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or read what was measured, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meaning", description=__doc__)
    parser.add_argument("what", choices=list(ROWS))
    parser.add_argument("--split", help="a split, or which wordings: develop, measured")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument(
        "--fit", type=float, metavar="SHARE", help="fit presence, refusing so many of what is there"
    )
    options = parser.parse_args(arguments)
    if options.read is None:
        options.read = options.output
        if options.output is None:
            parser.error("give a file with -o, or one that is there with --read")
        torch.set_num_threads(1)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with options.output.open("w", encoding="utf-8") as file:
            for row in _measured(options.what, options.split or SPLITS[options.what], options.clips):
                file.write(row.model_dump_json() + "\n")
                file.flush()
    kind = ROWS[options.what]
    rows = [kind.model_validate_json(line) for line in options.read.read_text(encoding="utf-8").splitlines()]
    print("\n".join(_table(rows, options.fit)))


def _measured(what: str, split: str, count: int) -> Iterator[BaseModel]:
    steerseg = SteerSeg.from_pretrained("demo", device="cpu")
    if what == "wordings":
        yield from measure_wordings(steerseg, load_wordings(split), count)
        return
    questions = ClipQuestions.of(load_manifest(split), 0, count)
    yield from (measure_presence if what == "presence" else measure_plurals)(steerseg, questions)


def _table(rows: Sequence[BaseModel], share: float | None) -> Iterator[str]:
    if rows and isinstance(rows[0], WordingRow):
        return describe_wordings([row for row in rows if isinstance(row, WordingRow)])
    if rows and isinstance(rows[0], PluralRow):
        return describe_plurals([row for row in rows if isinstance(row, PluralRow)])
    preset = load_preset(find_preset("demo"))
    lexicon = preset.load_lexicon()
    known = [row for row in rows if isinstance(row, PresenceRow)]
    calibration = preset.presence
    if share is not None:
        calibration = fit(known, lexicon, refused=share)
        print(calibration.model_dump_json())
    if calibration is None:
        raise ConfigError("the preset has no calibration of presence; fit one with --fit")
    return describe_presence(known, calibration, lexicon)


if __name__ == "__main__":
    main()
