"""The report of a run: tables in Markdown, with plots beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from steerseg.evaluation.plots import write_plots
from steerseg.evaluation.results import VariantResults
from steerseg.evaluation.tables import report

REPORT = "table.md"


def write_report(
    folder: str | Path, measured: Mapping[str, VariantResults], notes: Iterable[str] = ()
) -> str:
    """Write ``table.md`` and its plots into ``folder``.

    Args:
        folder: Folder of the report; pictures in it under the report's names are shown too.
        measured: Results by variant.
        notes: Notes for the reader, a sentence each.

    Returns:
        The Markdown.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_plots(folder, measured)
    text = report(measured, notes, {path.name for path in folder.glob("*.png")})
    (folder / REPORT).write_text(text, encoding="utf-8")
    return text
