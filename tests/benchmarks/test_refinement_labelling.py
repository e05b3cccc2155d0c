"""The tables of the labelling order's and the watch's campaigns, from records and simulations of our own."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from benchmarks.refinement import labelling, watching
from ml_backend.refinement.watching import RULE


def record(order: str, size: int, jf: float, seed: int = 1) -> dict[str, Any]:
    return {"word": "blick", "seed": seed, "order": order, "size": size, "tasks": [[jf, jf, 0.0, 0]] * 3}


def test_corrections_that_an_order_needs_are_counted_against_random_ones() -> None:
    curves = {
        labelling.RANDOM: {4: 0.5, 8: 0.6, 16: 0.7},
        "the backend's": {4: 0.6, 8: 0.7, 16: 0.7},
        "uncertainty": {4: 0.4, 8: 0.5, 16: 0.65},
    }
    records = [
        record(order, size, jf, seed)
        for order, curve in curves.items()
        for size, jf in curve.items()
        for seed in (1, 2)
    ]
    text = labelling.table(records)
    assert "| random | 0.500 | 0.600 | 0.700 |" in text
    assert "| the backend's | 4 | +0.100 [+0.100, +0.100] |" in text
    needed = text[text.index("corrections needed") :]
    assert "| random | 8.0 | 16.0 |" in needed
    assert "| the backend's | 4 or fewer | 8.0 |" in needed
    assert "| uncertainty | 13.3 | more than 16 |" in needed


def test_the_watchs_table_has_a_row_for_each_world_and_comparison() -> None:
    text = watching.table(replace(RULE, tasks=20), runs=20)
    rows = [line for line in text.splitlines() if re.match(r"\| (half|most|nearly|found|versions)", line)]
    assert len(rows) == len(watching.WORLDS) * len(watching.SETTINGS)
    assert all(row.count("|") == 10 for row in rows)
