"""Runs are kept and read again, and the report says what they gave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.refinement.findings import Findings
from benchmarks.refinement.loop import Refined
from benchmarks.refinement.measuring import BEFORE
from benchmarks.refinement.plots import write_plots
from benchmarks.refinement.presets import with_recipe
from benchmarks.refinement.records import Records
from benchmarks.refinement.report import report
from steerseg.errors import ConfigError
from steerseg.evaluation import Result, VariantResults
from steerseg.evaluation.results import Run, StageSeconds
from steerseg.presets import find_preset, load_preset

SETTINGS: dict[str, Any] = {
    "mode": "server",
    "domain": {"word": "gizmo", "means": "vehicle", "share": 0.5, "styles": ["twemoji"]},
    "habits": {"accept": 0.75, "keep": 0.9},
    "base_version": "preset-1",
    "recipe": {"batch": 8},
}
RUN = Refined(
    seed=1,
    tasks=24,
    accepted=10,
    proposal_iou=0.5,
    pages=300,
    outcome="promoted",
    reason="better on 6 held-out videos",
    gate={"scheme": "held-out videos"},
    seconds=480.0,
    version="r1-aaaa",
    digest="aaaa",
    base_version="preset-1",
    machine="2 cores of some processor",
)
KEPT_BACK = replace(RUN, seed=2, outcome="kept back", reason="the gain is below 0.005", digest="bbbb")


def measured(*scores: float) -> VariantResults:
    results = {
        f"v{i}/0": Result(
            id=f"v{i}/0",
            video=f"v{i}",
            expression="the gizmo",
            kind="gizmo" if i % 2 else "motion",
            twin=False,
            frames=24,
            j=score,
            f=score,
            score=0.5,
            seconds=StageSeconds(),
        )
        for i, score in enumerate(scores)
    }
    return VariantResults(Run(variant="raw"), results, ())


TEAM = {
    BEFORE: measured(0.2, 0.4, 0.8, 0.2),
    "aaaa": measured(0.4, 0.8, 0.8, 0.8),
    "bbbb": measured(0, 0, 0, 0),
}
OLD = {BEFORE: measured(0.7, 0.8), "aaaa": measured(0.7, 0.79), "bbbb": measured(0.1, 0.1)}


def findings(*runs: Refined) -> Findings:
    return Findings(runs, TEAM, OLD, "gizmo", 0.75)


def test_runs_are_read_again_but_for_a_line_that_was_never_finished(tmp_path: Path) -> None:
    records = Records(tmp_path, SETTINGS)
    assert records.read() == {}
    records.add(RUN)
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write(KEPT_BACK.line()[:40])
    again = Records(tmp_path, SETTINGS)
    assert again.read() == {(1, 24): RUN}
    again.add(KEPT_BACK)
    assert Records(tmp_path, SETTINGS).read() == {(1, 24): RUN, (2, 24): KEPT_BACK}


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    Records(tmp_path, SETTINGS).add(RUN)
    with pytest.raises(ConfigError, match=r"other settings \(recipe\)"):
        Records(tmp_path, {**SETTINGS, "recipe": {"batch": 4}})


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    records = Records(tmp_path, SETTINGS)
    (tmp_path / "runs.jsonl").write_text("{}\n" + RUN.line() + "\n")
    with pytest.raises(ConfigError, match="line 1, is damaged"):
        records.read()


def test_what_is_served_counts_and_what_was_made_is_told() -> None:
    both = findings(RUN, KEPT_BACK)
    change = both.change([RUN], TEAM)
    assert change is not None
    assert (change.before, change.after) == pytest.approx((0.4, 0.7))
    assert change.gain.mean == change.made.mean == pytest.approx(0.3)
    kept = both.change([KEPT_BACK], TEAM)
    assert kept is not None
    assert kept.after == kept.before
    assert kept.gain.mean == 0
    assert kept.made.mean == pytest.approx(-0.4)
    assert both.needed_before() == 0.75
    assert both.needed_after(RUN) == 0.25
    assert both.needed_after(KEPT_BACK) == 0.75


def test_the_report_has_tables_goals_and_pictures(tmp_path: Path) -> None:
    runs = (RUN, KEPT_BACK, replace(RUN, tasks=8))
    pictures = write_plots(tmp_path, findings(*runs), 24)
    assert pictures == ["gains.png", "curve.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in pictures)
    text = report(findings(*runs), SETTINGS, 24, pictures)
    assert "| the team's tasks | 4 | 0.400 | 0.550 | +0.150" in text
    assert "| … with “gizmo” | 2 | 0.300 | 0.550 |" in text
    assert "| corrections needed per task | 4 | 0.75 | 0.50 | -0.25 |" in text
    assert "| 8.0 minutes | met |" in text
    assert "| 24 | 2 | 10 | 0.50 | 0.400 | 8.0 | kept back: the gain is below 0.005 |" in text
    assert "| 24 | 0.550 |" in text
    assert "1 of 2 |" in text


def test_a_report_needs_no_run_of_the_first_tables_size(tmp_path: Path) -> None:
    text = report(findings(RUN), SETTINGS, 8, write_plots(tmp_path, findings(RUN), 8))
    assert "## After" not in text
    assert "## Learning curve" in text


def test_a_preset_with_another_recipe_has_the_same_models(tmp_path: Path) -> None:
    own = load_preset(find_preset("demo"))
    folder = with_recipe("demo", {"batch": 3, "training": {"steps": 7}}, tmp_path / "preset", keyframes=6)
    other = load_preset(folder)
    assert (other.recipe.batch, other.recipe.training.steps, other.keyframes) == (3, 7, 6)
    assert other.recipe.folds == own.recipe.folds
    assert (other.lvlm, other.sam2, other.soft_prompts) == (own.lvlm, own.sam2, own.soft_prompts)
    assert other.load_lexicon() == own.load_lexicon()
    with pytest.raises(ConfigError, match="takes fields of RefinementRecipe"):
        with_recipe("demo", {"stepz": 3}, tmp_path / "wrong")
