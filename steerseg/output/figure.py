"""The picture that explains a proposal: keyframes with both grounding maps, points and the winner."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from numpy.typing import NDArray

from steerseg.masks import decode_rle, mask_area
from steerseg.output.drawing import draw_tracklets, heat_overlay, rank_colour
from steerseg.video import Video, keyframe_indices

if TYPE_CHECKING:
    from steerseg.pipeline import Proposal
    from steerseg.points import PointPrompt

MAX_COLUMNS = 8
STEERING_COLUMNS = 5
INK, FAINT = "#16181d", "#6a7080"
_MARGIN, _LABELS, _GAP_X, _GAP_Y = 0.35, 1.75, 0.12, 0.08  # inches


DPI = 144
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


@dataclass(frozen=True)
class _Row:
    title: str
    explanation: str
    paint: Callable[[Axes, int], None]  # (axes, place in maps.keyframes)


@dataclass(frozen=True)
class _Line:
    """A line of the header: its size is in points."""

    text: str
    size: float
    colour: str = INK


def maps_figure(proposal: Proposal, video: Video) -> Figure:
    """Draw up to eight keyframes of a proposal, one a column.

    Args:
        proposal: What was found, with its maps and points.
        video: The video it was made from.

    Returns:
        A figure; ``figure.savefig(path)`` writes it.
    """
    columns = _columns(proposal)

    def header(characters: int) -> list[_Line]:
        verdict = _Line(_verdict(proposal), 11.5, FAINT)
        return [*_asked(proposal.expression, characters), *_named(proposal, characters), verdict]

    return _sheet(proposal, video, columns, _rows(proposal, video), header)


def steering_figure(raw: Proposal, steered: Proposal, video: Video, verdicts: tuple[str, str]) -> Figure:
    """Draw what steering changes, as the paper's first figure does: attention and mask, before and after.

    Args:
        raw: A proposal of raw attention.
        steered: One of the same video and expression by the whole method.
        video: The video.
        verdicts: A few words on each one's masks, for instance their accuracy.

    Returns:
        A figure; ``figure.savefig(path)`` writes it.
    """
    count = len(steered.maps.keyframes)
    columns = list(keyframe_indices(count, STEERING_COLUMNS))

    def attention(proposal: Proposal) -> Callable[[Axes, int], None]:
        def paint(axes: Axes, k: int) -> None:
            _show(
                axes, heat_overlay(video.frames[proposal.maps.keyframes[k]], proposal.maps.fused[k].numpy())
            )

        return paint

    rows = []
    for proposal, title, told, verdict in (
        (raw, "Raw attention", "where the frozen model\nlooks for its answer", verdicts[0]),
        (steered, "Steered attention", "the same weights, with\nattributes and soft prompts", verdicts[1]),
    ):
        rows.append(_Row(title, told, attention(proposal)))
        rows.append(_Row("its mask", verdict, _best_mask(proposal, video)))

    def header(characters: int) -> list[_Line]:
        return [*_asked(steered.expression, characters), *_named(steered, characters)]

    return _sheet(steered, video, columns, rows, header)


def _sheet(
    proposal: Proposal,
    video: Video,
    columns: Sequence[int],
    rows: Sequence[_Row],
    header_for: Callable[[int], list[_Line]],
) -> Figure:
    """Keyframes as columns, ``rows`` of pictures with their titles beside them, a header above.

    ``header_for`` makes the header for a number of characters a line.
    """
    aspect = video.width / video.height
    cell_width = min(2.15 if len(columns) > 4 else 2.7, 2.5 * aspect)
    cell_height = cell_width / aspect
    width = max(_LABELS + len(columns) * (cell_width + _GAP_X) + 2 * _MARGIN, 8.6)
    header = header_for(int((width - 2 * _MARGIN) * 7.4))
    header_height = 0.3 + sum(_line(line.size) for line in header) + 0.45
    footer_height = 0.75
    height = header_height + len(rows) * (cell_height + _GAP_Y) + footer_height
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    fonts = font_families()

    def write(x: float, y: float, text: str, size: float, colour: str = INK, **more: Any) -> None:
        """Text at inches from the left and from the top; never read as a formula."""
        font = FontProperties(family=fonts, size=size, weight=str(more.pop("weight", "normal")))
        figure.text(
            x / width, 1 - y / height, text, color=colour, fontproperties=font, parse_math=False, **more
        )

    y = 0.3
    for line in header:
        weight = "bold" if line.size > 14 else "normal"
        write(_MARGIN, y, line.text, line.size, line.colour, va="top", weight=weight)
        y += _line(line.size)

    left = _MARGIN + _LABELS
    for column, k in enumerate(columns):
        frame = proposal.maps.keyframes[k]
        x = left + column * (cell_width + _GAP_X)
        write(x, header_height - 0.1, f"frame {frame}", 9.5, va="bottom", weight="bold")
        write(
            x + cell_width,
            header_height - 0.1,
            f"{video.pts[frame]:.2f} s",
            9,
            FAINT,
            va="bottom",
            ha="right",
        )
    for number, row in enumerate(rows):
        top = header_height + number * (cell_height + _GAP_Y)
        write(_MARGIN, top + 0.04, row.title, 11.5, va="top", weight="bold")
        write(_MARGIN, top + 0.28, row.explanation, 8.5, FAINT, va="top", linespacing=1.35)
        for column, k in enumerate(columns):
            x = left + column * (cell_width + _GAP_X)
            axes = figure.add_axes(
                (x / width, 1 - (top + cell_height) / height, cell_width / width, cell_height / height)
            )
            axes.set_axis_off()
            row.paint(axes, k)
            axes.set_xlim(0, video.width)
            axes.set_ylim(video.height, 0)

    base = height - footer_height + 0.2
    _scale(figure, left, base, write)
    versions = proposal.versions
    told = [
        f"{name} {versions[name]}" for name in ("steerseg", "preset", "lvlm", "tracker") if name in versions
    ]
    write(left, base + 0.27, "   ".join(told), 8, FAINT, va="center")
    return figure


def save_maps(proposal: Proposal, video: Video, path: Path) -> None:
    """Write :func:`maps_figure` as a picture; the type follows the name's ending."""
    save_figure(maps_figure(proposal, video), path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a picture; the type follows the name's ending."""
    with warnings.catch_warnings():
        # A sign that no font of this machine has becomes a box, which says as much.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path)


def _columns(proposal: Proposal) -> list[int]:
    """Places in ``maps.keyframes``: evenly spread, and the one where the winner was clicked among them."""
    keyframes = proposal.maps.keyframes
    columns = list(keyframe_indices(len(keyframes), MAX_COLUMNS))
    if proposal.tracklets and proposal.best.prompt.frame in keyframes:
        clicked = keyframes.index(proposal.best.prompt.frame)
        nearest = min(range(len(columns)), key=lambda i: abs(columns[i] - clicked))
        columns[nearest] = clicked
    return columns


def _line(size: float) -> float:
    """Inches from one line of text to the next, at a size in points."""
    return size * 1.75 / 72


def _asked(expression: str, characters: int) -> list[_Line]:
    """The expression in large letters."""
    told = f"“{' '.join(expression.split())}”"
    lines = textwrap.wrap(told, max(20, characters * 13 // 24), max_lines=3, placeholder=" …”")
    return [_Line(line, 19.0) for line in lines]


def _named(proposal: Proposal, characters: int) -> list[_Line]:
    """The attributes, if there are any."""
    if not proposal.attributes:
        return []
    told = "attributes:  " + "  ·  ".join(proposal.attributes)
    return [_Line(line, 11.5) for line in textwrap.wrap(told, characters, max_lines=2, placeholder=" …")]


def _verdict(proposal: Proposal) -> str:
    if not proposal.tracklets:
        return "nothing found"
    best = proposal.best
    visible = sum(mask_area(rle) > 0 for rle in best.rles)
    others = len(proposal.tracklets) - 1
    alternatives = f", {others} alternative{'s' if others > 1 else ''}" if others else ""
    return f"found on {visible} of {len(best.rles)} frames, score {best.score:.2f}{alternatives}"


def _rows(proposal: Proposal, video: Video) -> list[_Row]:
    maps = proposal.maps
    keyframes = maps.keyframes
    frames = video.frames

    def plain(axes: Axes, k: int) -> None:
        _show(axes, frames[keyframes[k]])

    def heat(grid: NDArray[np.float32]) -> Callable[[Axes, int], None]:
        def paint(axes: Axes, k: int) -> None:
            # A video map has one slice for two keyframes.
            _show(axes, heat_overlay(frames[keyframes[k]], grid[k * len(grid) // len(keyframes)]))

        return paint

    def points(axes: Axes, k: int) -> None:
        frame = keyframes[k]
        fused = maps.fused[k].numpy()
        _show(axes, heat_overlay(frames[frame], np.float32(0.55) * fused))
        here = [point for point in proposal.points if point.frame == frame]
        for point in sorted(here, key=lambda point: point.value):
            _mark(axes, point, proposal, video)

    rows = [_Row("Keyframes", "what the language\nmodel saw", plain)]
    if maps.frame is not None:
        rows.append(_Row("Frame map", "its attention in\neach frame alone", heat(maps.frame.numpy())))
    if maps.video is not None:
        rows.append(_Row("Video map", "its attention over\nthe whole clip", heat(maps.video.numpy())))
    several = len(proposal.tracklets) > 1
    clicks = "clicks for SAM 2" + (",\n★ started the winner" if proposal.tracklets else "")
    rows.append(_Row("Points", clicks + (",\n● in colour: alternatives" if several else ""), points))
    rows.append(
        _Row(
            "Winner",
            "its mask" + (" (1), outlines\nof the alternatives" if several else ""),
            _best_mask(proposal, video),
        )
    )
    return rows


def _best_mask(proposal: Proposal, video: Video) -> Callable[[Axes, int], None]:
    """Paints the winner with outlines of the alternatives."""

    def paint(axes: Axes, k: int) -> None:
        frame = proposal.maps.keyframes[k]
        masks = [decode_rle(tracklet.rles[frame]) for tracklet in proposal.tracklets]
        _show(axes, draw_tracklets(video.frames[frame], masks))
        if not masks or not masks[0].any():
            axes.text(
                0.5,
                0.06,
                "not visible" if masks else "nothing found",
                transform=axes.transAxes,
                ha="center",
                color="white",
                fontsize=9,
                bbox={"boxstyle": "round,pad=0.35", "facecolor": INK, "edgecolor": "none", "alpha": 0.8},
            )

    return paint


def _show(axes: Axes, image: NDArray[np.uint8]) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation="antialiased", aspect="auto")


def _mark(axes: Axes, point: PointPrompt, proposal: Proposal, video: Video) -> None:
    ranks = [rank for rank, tracklet in enumerate(proposal.tracklets) if tracklet.prompt == point]
    rank = ranks[0] if ranks else None
    colour = "white" if rank is None else tuple(channel / 255 for channel in rank_colour(rank))
    axes.scatter(
        [point.x * video.width],
        [point.y * video.height],
        marker="*" if rank == 0 else "o",
        s=210 if rank == 0 else 42,
        c=[colour],
        edgecolors=INK,
        linewidths=1.1,
        zorder=3 if rank is None else 4 + (rank == 0),
    )


def _scale(figure: Figure, x: float, y: float, write: Callable[..., None]) -> None:
    """The legend of the maps' colours."""
    width, height = figure.get_size_inches()
    write(x, y, "attention  low", 8.5, FAINT, va="center")
    start, length, thickness = x + 0.95, 1.6, 0.12
    axes = figure.add_axes(
        (start / width, 1 - (y + thickness / 2) / height, length / width, thickness / height)
    )
    axes.set_axis_off()
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    grey = np.full((1, 256, 3), 128, dtype=np.uint8)
    axes.imshow(heat_overlay(grey, ramp), aspect="auto")
    write(start + length + 0.08, y, "high", 8.5, FAINT, va="center")


def font_families() -> list[str]:
    """Fonts of this machine, the first for nearly all signs and the others for what it lacks."""
    known = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in known)]
