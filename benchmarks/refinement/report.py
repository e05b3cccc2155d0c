"""The report: tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.refinement.findings import Change, Findings
from benchmarks.refinement.loop import Refined
from benchmarks.refinement.measuring import BEFORE
from steerseg.evaluation import Interval

LEAST_GAIN = 0.05
MOST_LOSS = 0.01
MOST_SECONDS = 600.0


def report(findings: Findings, settings: Mapping[str, Any], headline: int, pictures: Sequence[str]) -> str:
    """The whole report.

    Args:
        findings: What was measured.
        settings: Of the runs; see :class:`benchmarks.refinement.records.Records`.
        headline: The number of corrections that the first table is about.
        pictures: Names of files beside it that can be shown.
    """
    runs = findings.of_size(headline)
    sections = ["# What corrections are worth, measured", _head(findings, settings)]
    if runs:
        sections += [f"## After {headline} corrections", _changes(findings, runs), _goals(findings, runs)]
        if "gains.png" in pictures:
            sections.append(f"![J&F before and after {headline} corrections](gains.png)")
    sections += ["## Learning curve", _curve(findings)]
    if "curve.png" in pictures:
        sections.append("![J&F and tasks that need a correction, by number of corrected tasks](curve.png)")
    sections += ["## Runs", _runs(findings)]
    return "\n\n".join(sections) + "\n"


def _head(findings: Findings, settings: Mapping[str, Any]) -> str:
    domain, habits = settings["domain"], settings["habits"]
    way = {
        "server": "through a Label Studio server, by the requests that the browser sends",
        "offline": "on the backend's service alone, without servers",
    }[settings["mode"]]
    machines = sorted({run.machine for run in findings.runs})
    return (
        f"A simulated annotator works {way}: sprites of the style {', '.join(domain['styles'])}, which nothing was "
        f"trained on; {domain['share']:.0%} of the tasks call {domain['means']}s by this team's own word, "
        f"“{domain['word']}”. Proposals with a mean IoU of at least {habits['accept']:g} are accepted as they are, "
        "others get the true masks. Measured before and after: "
        f"{_many(len(findings.team[BEFORE].results), 'further task')} of the team, and "
        f"{_many(len(findings.old[BEFORE].results), 'task')} of the old domain (`sprites-ref` val). “After” is "
        "what the backend serves once the gate has decided. Intervals are 95 % bootstrap intervals over "
        f"videos, of means over {_many(len({run.seed for run in findings.runs}), 'seed')}.\n\n"
        f"Preset {settings['base_version']}; refined on {'; '.join(machines)}."
    )


def _changes(findings: Findings, runs: Sequence[Refined]) -> str:
    rows: list[tuple[str, Change | None]] = [
        ("the team's tasks", findings.change(runs, findings.team)),
        *((f"… {name}", change) for name, change in findings.by_word(runs).items()),
        ("the old domain", findings.change(runs, findings.old)),
    ]
    lines = ["| J&F on | tasks | before | after | gain [95 % interval] |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {change.tasks} | {change.before:.3f} | {change.after:.3f} | {_signed(change.gain)} |"
        for name, change in rows
        if change is not None
    ]
    before = findings.needed_before()
    after = float(np.mean([findings.needed_after(run) for run in runs]))
    lines.append(
        f"| corrections needed per task | {rows[0][1].tasks if rows[0][1] else 0} | {before:.2f} | "
        f"{after:.2f} | {after - before:+.2f} |"
    )
    return "\n".join(lines)


def _goals(findings: Findings, runs: Sequence[Refined]) -> str:
    team, old = findings.change(runs, findings.team), findings.change(runs, findings.old)
    assert team is not None
    assert old is not None
    seconds = max(run.seconds for run in runs)
    rows = (
        (
            f"gain of at least {LEAST_GAIN:+.2f}, interval above 0",
            _signed(team.gain),
            team.gain.mean >= LEAST_GAIN and team.gain.low > 0,
        ),
        (f"old domain: no more than {-MOST_LOSS:+.2f}", _signed(old.gain), old.gain.mean >= -MOST_LOSS),
        (
            f"refinement within {MOST_SECONDS / 60:.0f} minutes, the gate included",
            f"{seconds / 60:.1f} minutes",
            seconds <= MOST_SECONDS,
        ),
    )
    lines = ["| goal | measured | |", "|---|---|---|"]
    lines += [f"| {goal} | {found} | {'met' if met else 'not met'} |" for goal, found, met in rows]
    return "\n".join(lines)


def _curve(findings: Findings) -> str:
    lines = [
        "| corrected tasks | J&F after | gain [95 % interval] | of what was made | corrections needed per task "
        "| old domain | promoted |",
        "|---|---|---|---|---|---|---|",
        f"| 0 | {findings.jf_before():.3f} | | | {findings.needed_before():.2f} | "
        f"{findings.old_before():.3f} | |",
    ]
    for size in findings.sizes:
        runs = findings.of_size(size)
        change = findings.change(runs, findings.team)
        assert change is not None
        needed = float(np.mean([findings.needed_after(run) for run in runs]))
        old = float(np.mean([findings.old_after(run) for run in runs]))
        lines.append(
            f"| {size} | {change.after:.3f} | {_signed(change.gain)} | {_signed(change.made)} | {needed:.2f} | "
            f"{old:.3f} | {sum(run.promoted for run in runs)} of {len(runs)} |"
        )
    return "\n".join(lines)


def _runs(findings: Findings) -> str:
    lines = [
        "| corrected tasks | seed | accepted as proposed | IoU of proposals | J&F after | minutes | the gate |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run.tasks} | {run.seed} | {run.accepted} | {run.proposal_iou:.2f} | {findings.jf_after(run):.3f} | "
        f"{run.seconds / 60:.1f} | {run.outcome}: {run.reason} |"
        for size in findings.sizes
        for run in findings.of_size(size)
    ]
    return "\n".join(lines)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _signed(gain: Interval) -> str:
    return f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
