"""From ``results.jsonl`` to a table, and a plot of how time and memory scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.measures import measures_table


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def write_report(folder: Path) -> None:
    """Write ``report.md`` and, where they were measured, ``measures.md`` and ``scaling.png``."""
    results = read_results(folder)
    (folder / "report.md").write_text(table(results))
    if measures := measures_table(results):
        (folder / "measures.md").write_text(f"{_about(results[0])}\n\n{measures}")
    draw_scaling(results, folder / "scaling.png")


def table(results: list[dict[str, Any]]) -> str:
    """One row a measurement; what failed or was not measured says so."""
    lines = [
        _about(results[0]),
        "",
        "| what | seconds | floor (s) | peak (GB) | held (GB) | more |",
        "|---|---:|---:|---:|---:|---|",
    ]
    shown = ("name", "seconds", "floor", "peak_gb", "held_gb", "where")
    for result in results[1:]:
        more = "; ".join(f"{key} {_short(value)}" for key, value in result.items() if key not in shown)
        cells = [_short(result.get(key, "")) for key in ("seconds", "floor", "peak_gb", "held_gb")]
        lines.append(f"| {result['name']} | {' | '.join(cells)} | {more.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _about(first: dict[str, Any]) -> str:
    """The machine, the versions and the models, from the first line of a run."""
    about = (
        f"Measured on {first['device']}, torch {first['torch']}, transformers {first['transformers']}, "
        f"triton {first['triton']}; random weights ({first['size']})."
    )
    if first.get("memory_gb"):
        about += f" PyTorch was given {first['memory_gb']:g} GB of memory and was told that there is no more."
    return about


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).splitlines()[0] if value != "" else ""


def draw_scaling(results: list[dict[str, Any]], path: Path) -> None:
    """Seconds and gigabytes by keyframes and by frames."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    measured = [result for result in results if "seconds" in result]
    series: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for axis in ("keyframes", "frames"):
        for result in measured:
            if axis in result:
                label = result["name"].split(": ", 1)[1]
                series.setdefault((axis, label), []).append(
                    (result[axis], result["seconds"], result["peak_gb"])
                )
    if not series:
        return
    figure, places = plt.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for (axis, label), points in series.items():
        column = ("keyframes", "frames").index(axis)
        for row, unit in enumerate(("seconds", "peak memory (GB)")):
            place = places[row, column]
            place.plot(
                [point[0] for point in points], [point[1 + row] for point in points], "o-", label=label
            )
            place.set(xlabel=axis, ylabel=unit, xscale="log")
            place.set_xticks([point[0] for point in points], [f"{point[0]:,}" for point in points])
            place.minorticks_off()
            place.grid(alpha=0.3)
    for place in places.flat:
        place.set_ylim(0, 1.05 * place.get_ylim()[1])  # once all series are there
    for place in places[0]:
        if place.lines:
            place.legend(fontsize=8)
    figure.suptitle(f"{results[0]['device']}, random weights ({results[0]['size']})")
    figure.savefig(path, dpi=120)
    plt.close(figure)
