"""The report's pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.refinement.findings import Findings
from steerseg.output.figure import DPI, FAINT, INK, font_families

_BEFORE, _AFTER, _OLD = "#a7aebb", "#0092d6", "#5b6472"
_RULE = "#e6e8ec"


def write_plots(folder: Path, findings: Findings, headline: int) -> list[str]:
    """Write ``gains.png`` and ``curve.png``, as far as the runs allow; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if findings.of_size(headline):
        gains_figure(findings, headline).savefig(folder / "gains.png")
        written.append("gains.png")
    if len(findings.sizes) > 1:
        curve_figure(findings).savefig(folder / "curve.png")
        written.append("curve.png")
    return written


def curve_figure(findings: Findings) -> Figure:
    """J&F, and tasks that need a correction, against the number of corrected tasks: each seed, and the mean."""
    figure, (left, right) = _figure(9.2, 3.5, 2)
    sizes = [0, *findings.sizes]
    seeds = sorted({run.seed for run in findings.runs})
    runs = {(run.seed, run.tasks): run for run in findings.runs}
    for axes, before, after, colour, label in (
        (left, findings.jf_before(), findings.jf_after, _AFTER, "the team's held-out tasks"),
        (left, findings.old_before(), findings.old_after, _OLD, "the old domain"),
        (right, findings.needed_before(), findings.needed_after, _AFTER, "corrections needed per task"),
    ):
        for seed in seeds:
            known = [size for size in findings.sizes if (seed, size) in runs]
            values = [before, *(after(runs[seed, size]) for size in known)]
            axes.plot([0, *known], values, color=colour, linewidth=0.8, alpha=0.35)
        means = [before]
        means += [float(np.mean([after(run) for run in findings.of_size(n)])) for n in findings.sizes]
        axes.plot(sizes, means, color=colour, linewidth=1.8, marker="o", markersize=4.5, label=label)
        for size, value in zip(sizes, means, strict=True):
            axes.annotate(
                f"{value:.2f}",
                (size, value),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=FAINT,
            )
    left.legend(loc="lower right", frameon=False, fontsize=9)
    for axes, title in ((left, "J&F after the refinement"), (right, "Corrections needed per task")):
        axes.set_xticks(sizes)
        axes.set_xlabel("corrected tasks", color=FAINT, fontsize=9)
        axes.set_ylim(0, 1.05)
        axes.grid(axis="y", color=_RULE)
        axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=10)
    return figure


def learning_curves(sizes: Sequence[int], curves: Mapping[str, tuple[Sequence[float], float]]) -> Figure:
    """J&F by number of corrected tasks, a small picture a word.

    Args:
        sizes: Numbers of corrected tasks.
        curves: By title: J&F after each of them, and what the plain word gives, as a dashed line.
    """
    columns = 4
    rows = math.ceil(len(curves) / columns)
    figure, all_axes = _figure(9.2, 2.3 * rows, columns, rows)
    for axes in all_axes[len(curves) :]:
        axes.set_visible(False)
    for axes, (title, (values, bound)) in zip(all_axes, curves.items(), strict=False):
        axes.axhline(bound, color=_OLD, linewidth=1.2, linestyle="--")
        axes.plot(range(len(sizes)), values, color=_AFTER, linewidth=1.8, marker="o", markersize=4)
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_ylim(0.3, 1.0)
        axes.grid(axis="y", color=_RULE)
        axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", color=INK)
    figure.supxlabel("corrected tasks (dashed: the plain word typed)", color=FAINT, fontsize=9)
    figure.supylabel("J&F", color=FAINT, fontsize=9)
    return figure


def gains_figure(findings: Findings, headline: int) -> Figure:
    """J&F before and after, with the interval of the gain."""
    runs = findings.of_size(headline)
    rows = {
        "the team's tasks": findings.change(runs, findings.team),
        **{f"… {name}": change for name, change in findings.by_word(runs).items()},
        "the old domain": findings.change(runs, findings.old),
    }
    shown = {name: change for name, change in rows.items() if change is not None}
    figure, (axes,) = _figure(7.6, 0.9 + 0.55 * len(shown), 1)
    for place, change in enumerate(shown.values()):
        axes.barh([place - 0.19], [change.before], height=0.36, color=_BEFORE)
        axes.barh([place + 0.19], [change.after], height=0.36, color=_AFTER)
        gain = change.gain
        axes.plot(
            [change.before + gain.low, change.before + gain.high],
            [place + 0.19, place + 0.19],
            color=INK,
            linewidth=1.1,
            solid_capstyle="butt",
        )
        for value, at, end in (
            (f"{change.before:.2f}", place - 0.19, change.before),
            (f"{change.after:.2f}", place + 0.19, max(change.after, change.before + gain.high)),
        ):
            axes.annotate(
                value,
                (end, at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=FAINT,
            )
    axes.barh([0], [0], color=_BEFORE, label="before")
    axes.barh([0], [0], color=_AFTER, label="after")
    axes.set_yticks(range(len(shown)), [f"{name}  ({change.tasks})" for name, change in shown.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x", color=_RULE)
    axes.set_title(
        f"J&F before and after {headline} corrections",
        loc="left",
        fontsize=11.5,
        fontweight="bold",
        color=INK,
        pad=10,
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, borderpad=0.2)
    return figure


def _figure(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    with rc_context({"font.family": font_families(), "font.size": 9.5, "text.color": INK}):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        all_axes = [figure.add_subplot(rows, columns, index + 1) for index in range(rows * columns)]
    for axes in all_axes:
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_RULE)
    return figure, all_axes
