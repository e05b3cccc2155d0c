"""The report's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steerseg.evaluation.metrics import Interval
from steerseg.evaluation.results import Result, VariantResults, mean_of
from steerseg.evaluation.tables import (
    ablation_rows,
    dataset_halves,
    is_scored,
    is_whole_method,
    main_rows,
    sample_groups,
)
from steerseg.output.figure import DPI, FAINT, INK, font_families

_RAW, _STEERED, _OTHER = "#a7aebb", "#0092d6", "#5b6472"
_RULE = "#e6e8ec"


def write_plots(folder: Path, measured: Mapping[str, VariantResults]) -> None:
    """Write those of ``kinds.png``, ``ablations.png`` and ``frame-weight.png`` that the results allow."""
    if not is_scored(measured):
        return
    rows = {name: list(entry.results.values()) for name, entry in measured.items()}
    groups = ablation_rows(measured)
    if rows.get("raw") and sample_groups(rows["raw"]):
        _save(kinds_figure(rows, dataset_halves(measured)), folder / "kinds.png")
    if any(group != "frame weight" for group in groups):
        _save(ablations_figure(measured), folder / "ablations.png")
    if len(groups.get("frame weight", {})) > 1:
        _save(frame_weight_figure(measured), folder / "frame-weight.png")


def kinds_figure(rows: Mapping[str, list[Result]], halves: Sequence[str] = ()) -> Figure:
    """J&F by kind of expression: raw attention beside the method."""
    shown = main_rows(rows)
    best = next((name for name in ("steerseg", "soft", "cot") if name in shown), None)
    series = [("raw", _RAW), *([(best, _STEERED)] if best else [])]
    groups = {"all": lambda result: True, **sample_groups(rows["raw"])}
    figure, axes = _figure(7.6, 0.9 + 0.52 * len(groups))
    positions = np.arange(len(groups))
    thick = 0.8 / len(series)
    for number, (name, colour) in enumerate(series):
        members = [[r for r in rows[name] if inside(r)] for inside in groups.values()]
        intervals = [mean_of(part, halves=halves) if part else None for part in members]
        shift = (number - (len(series) - 1) / 2) * thick
        _bars(axes, [position + shift for position in positions.tolist()], intervals, thick * 0.92, colour)
        axes.barh([0], [0], color=colour, label=shown[name][0].lstrip("+ "))
    counts = [sum(inside(r) for r in rows["raw"]) for inside in groups.values()]
    axes.set_yticks(positions, [f"{group}  ({n})" for group, n in zip(groups, counts, strict=True)])
    _finish(axes, "J&F by kind of expression")
    figure.legend(loc="outside lower right", ncols=len(series), frameon=False, fontsize=9, borderpad=0.2)
    return figure


def ablations_figure(measured: Mapping[str, VariantResults]) -> Figure:
    """J&F of the main rows and of each ablation, with intervals."""
    rows = {name: list(entry.results.values()) for name, entry in measured.items()}
    halves = dataset_halves(measured)
    bars: list[tuple[str, Interval | None, str]] = []
    for name, (label, results) in main_rows(rows).items():
        colour = {"raw": _RAW, "steerseg": _STEERED}.get(name, _OTHER)
        bars.append((label.lstrip("+ "), mean_of(results, halves=halves), colour))
    for group, entries in ablation_rows(measured).items():
        if group == "frame weight":
            continue  # a curve of its own
        bars.append(("", None, _OTHER))
        for label, entry in entries.items():
            results = list(entry.results.values())
            colour = _STEERED if is_whole_method(entry, measured) else _OTHER
            bars.append((label, mean_of(results, halves=halves) if results else None, colour))
    figure, axes = _figure(7.6, 0.8 + 0.3 * len(bars))
    positions = np.cumsum([0.45 if not label else 1.0 for label, _, _ in bars])
    for position, (_, interval, colour) in zip(positions, bars, strict=True):
        _bars(axes, [position], [interval], 0.72, colour)
    labelled = [(position, label) for position, (label, _, _) in zip(positions, bars, strict=True) if label]
    axes.set_yticks([position for position, _ in labelled], [label for _, label in labelled])
    axes.set_ylim(positions[-1] + 0.6, positions[0] - 0.6)
    _finish(axes, "J&F, parts and ablations")
    return figure


def frame_weight_figure(measured: Mapping[str, VariantResults]) -> Figure:
    """J&F against the weight of the frame map in a tracklet's score."""
    entries = ablation_rows(measured)["frame weight"]
    weights = [entry.run.config["frame_weight"] for entry in entries.values()]
    halves = dataset_halves(measured)
    intervals = [mean_of(entry.results.values(), halves=halves) for entry in entries.values()]
    figure, axes = _figure(5.6, 3.2)
    axes.fill_between(
        weights, [i.low for i in intervals], [i.high for i in intervals], color=_STEERED, alpha=0.16
    )
    axes.plot(weights, [i.mean for i in intervals], color=_STEERED, marker="o", markersize=4.5)
    preset = measured["steerseg"].run.config["frame_weight"] if "steerseg" in measured else None
    if preset is not None:
        axes.axvline(preset, color=FAINT, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.annotate(
            f"in use: {preset:g}",
            (preset, 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            color=FAINT,
            fontsize=8.5,
        )
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("frame weight w_f  (0: video map only ranks, 1: frame map only)", color=FAINT, fontsize=9)
    axes.set_title("J&F by frame weight", loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=10)
    axes.grid(axis="y", color=_RULE)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib import rc_context

    with rc_context({"font.family": font_families(), "font.size": 9.5, "text.color": INK}):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_RULE)
    return figure, axes


def _bars(
    axes: Axes, positions: Sequence[float], intervals: Sequence[Interval | None], thick: float, colour: str
) -> None:
    """Horizontal bars with whiskers and the mean written at the end."""
    for position, interval in zip(positions, intervals, strict=True):
        if interval is None:
            continue
        axes.barh([position], [interval.mean], height=thick, color=colour)
        axes.plot(
            [interval.low, interval.high],
            [position, position],
            color=INK,
            linewidth=1.1,
            solid_capstyle="butt",
        )
        axes.annotate(
            f"{interval.mean:.2f}",
            (max(interval.high, interval.mean), position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=FAINT,
        )


def _finish(axes: Axes, title: str) -> None:
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.set_xlim(0, 1.06)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x", color=_RULE)
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=10)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path)
