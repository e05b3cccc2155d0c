"""The study of the gate: what is published follows from its records."""

from __future__ import annotations

from pathlib import Path

from benchmarks.refinement import gate_rules

STUDY = Path(gate_rules.__file__).with_name("gate-h200")


def test_the_published_tables_follow_from_the_records() -> None:
    assert gate_rules.tables(STUDY) == (STUDY / "table.md").read_text(encoding="utf-8")
