"""``python -m benchmarks.meaning KIND -o FILE``: ask, keep each answer as a line, print tables.

Kinds: ``presence``, ``wordings``, ``readings``, ``plurals``, ``verification``, ``localisation``,
``motion``, ``confidence``, ``reasoning``, ``late``.

``wordings`` asks what people type; ``readings`` asks the expressions of a split that plain wording changes.
``--read FILE`` prints the table of answers that are kept already.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from benchmarks.meaning.answers import ClipQuestions
from benchmarks.meaning.confidence import ConfidenceRow, describe_confidence, measure_confidence
from benchmarks.meaning.late import LateRow, describe_late, measure_late
from benchmarks.meaning.localisation import LocalisationRow, describe_localisation, measure_localisation
from benchmarks.meaning.motion import MotionRow, describe_motion, measure_motion
from benchmarks.meaning.plurals import PluralRow, describe_plurals, measure_plurals
from benchmarks.meaning.presence import PresenceRow, describe_presence, fit, measure_presence
from benchmarks.meaning.reasoning import ReasoningRow, describe_reasoning, measure_reasoning
from benchmarks.meaning.sharing import Measure, measure_clips
from benchmarks.meaning.verification import VerificationRow, describe_verification, measure_verification
from benchmarks.meaning.visits import draw_visit, visits_manifest
from benchmarks.meaning.wordings import (
    WordingRow,
    clips_of,
    clips_read_otherwise,
    describe_wordings,
    load_wordings,
    measure_readings,
    measure_wordings,
)
from steerseg.demo.dataset import ClipEntry, Manifest, load_manifest
from steerseg.errors import ConfigError
from steerseg.presets import find_preset, load_preset

ROWS: dict[str, type[BaseModel]] = {
    "presence": PresenceRow,
    "plurals": PluralRow,
    "wordings": WordingRow,
    "readings": WordingRow,
    "verification": VerificationRow,
    "localisation": LocalisationRow,
    "motion": MotionRow,
    "confidence": ConfidenceRow,
    "reasoning": ReasoningRow,
    "late": LateRow,
}
SPLITS = {
    "presence": "test-presence",
    "plurals": "test-plurals",
    "wordings": "measured",
    "readings": "test",
    "verification": "val",
    "localisation": "val",
    "motion": "val",
    "confidence": "val",
    "reasoning": "val",
    "late": "measured",
}
MEASURES: dict[str, Measure] = {
    "presence": measure_presence,
    "plurals": measure_plurals,
    "verification": measure_verification,
    "localisation": measure_localisation,
    "motion": measure_motion,
    "confidence": measure_confidence,
    "reasoning": measure_reasoning,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or read what was measured, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meaning", description=__doc__)
    parser.add_argument("what", choices=list(ROWS))
    parser.add_argument("--split", help="a split; of wordings and late: develop, measured")
    parser.add_argument(
        "--config",
        type=json.loads,
        default={},
        metavar="JSON",
        help='other switches of the pipeline, such as {"instances": "maps"}',
    )
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, auto or cuda:N (default: cpu)")
    parser.add_argument("--processes", type=int, default=1, help="processes; with cuda they share the GPUs")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument(
        "--fit",
        type=float,
        metavar="SHARE",
        help="fit presence, refusing so many of what is there; or confidence, whatever the share",
    )
    options = parser.parse_args(arguments)
    if options.read is None:
        options.read = options.output
        if options.output is None:
            parser.error("give a file with -o, or one that is there with --read")
        options.output.parent.mkdir(parents=True, exist_ok=True)
        measure, manifest, entries = _work(options.what, options.split or SPLITS[options.what], options.clips)
        with options.output.open("w", encoding="utf-8") as file:
            draw = draw_visit if options.what == "late" else ClipQuestions.of
            for row in measure_clips(
                measure, manifest, entries, options.device, options.processes, draw, options.config
            ):
                file.write(row.model_dump_json() + "\n")
                file.flush()
    kind = ROWS[options.what]
    rows = [kind.model_validate_json(line) for line in options.read.read_text(encoding="utf-8").splitlines()]
    print("\n".join(_table(rows, options.fit)))


def _work(what: str, split: str, count: int) -> tuple[Measure, Manifest, Sequence[ClipEntry]]:
    """What is measured about a clip, the split, and its clips."""
    if what == "wordings":
        wordings = load_wordings(split)
        manifest = load_manifest(wordings.split)
        return partial(measure_wordings, wordings), manifest, clips_of(wordings, manifest, count)
    if what == "late":
        manifest = visits_manifest(split, count)
        return measure_late, manifest, manifest.clips
    manifest = load_manifest(split)
    if what == "readings":
        return measure_readings, manifest, clips_read_otherwise(manifest, count)
    return MEASURES[what], manifest, manifest.clips[:count]


def _table(rows: Sequence[BaseModel], share: float | None) -> Iterator[str]:
    if rows and isinstance(rows[0], WordingRow):
        return describe_wordings([row for row in rows if isinstance(row, WordingRow)])
    if rows and isinstance(rows[0], PluralRow):
        return describe_plurals([row for row in rows if isinstance(row, PluralRow)])
    if rows and isinstance(rows[0], VerificationRow):
        return describe_verification([row for row in rows if isinstance(row, VerificationRow)])
    if rows and isinstance(rows[0], LocalisationRow):
        return describe_localisation([row for row in rows if isinstance(row, LocalisationRow)])
    if rows and isinstance(rows[0], MotionRow):
        return describe_motion([row for row in rows if isinstance(row, MotionRow)])
    if rows and isinstance(rows[0], ReasoningRow):
        return describe_reasoning([row for row in rows if isinstance(row, ReasoningRow)])
    if rows and isinstance(rows[0], LateRow):
        return describe_late([row for row in rows if isinstance(row, LateRow)])
    preset = load_preset(find_preset("demo"))
    if rows and isinstance(rows[0], ConfidenceRow):
        of_confidence = [row for row in rows if isinstance(row, ConfidenceRow)]
        return describe_confidence(of_confidence, preset.confidence if share is None else None)
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
