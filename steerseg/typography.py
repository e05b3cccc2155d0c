"""Ink and letters of every picture with text."""

from __future__ import annotations

from matplotlib.font_manager import fontManager

DPI = 144
INK, FAINT = "#16181d", "#6a7080"

# What DejaVu Sans lacks, from fonts that common systems have.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "PingFang SC",
    "Microsoft YaHei",
    "Arial Unicode MS",
    "Noto Emoji",
)


def font_families() -> list[str]:
    """Fonts of this machine, the first for nearly all signs and the others for what it lacks."""
    known = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in known)]
