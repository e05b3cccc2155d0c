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
    from steerseg.points import PointPrompt
    from steerseg.proposal import Proposal

MAX_COLUMNS = 8
STEERING_COLUMNS = 5
INK, FAINT = "#16181d", "#6a7080"
_MARGIN, _LABELS, _GAP_X, _GAP_Y, _FOOTER = 0.35, 1.75, 0.12, 0.08, 0.75  # inches

DPI = 144
# For signs that DejaVu Sans lacks: fonts of common systems.
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
    paint: Callable[[Axes, int], None]  # (axes, index in maps.keyframes)


@dataclass(frozen=True)
class _Line:
    """A line of the header: its size is in points."""

    text: str
    size: float
    colour: str = INK


def maps_figure(proposal: Proposal, video: Video) -> Figure:
    """Draw up to eight keyframes of a proposal, one a column.

    Args:
        proposal: The proposal, with its maps and points.
        video: The video it was made from.

    Returns:
        A figure; ``figure.savefig(path)`` writes it.
    """
    columns = _columns(proposal)

    def header(characters: int) -> list[_Line]:
        verdict = _Line(_verdict(proposal), 11.5, FAINT)
        return [
            *_expression_lines(proposal.expression, characters),
            *_attribute_lines(proposal, characters),
            verdict,
        ]

    return _Sheet(proposal, video, columns, _rows(proposal, video), header).draw()


def steering_figure(raw: Proposal, steered: Proposal, video: Video, verdicts: tuple[str, str]) -> Figure:
    """Draw attention and mask before and after steering, as the paper's first figure does.

    Args:
        raw: A proposal of raw attention.
        steered: A proposal of the whole method for the same video and expression.
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
    for proposal, title, explanation, verdict in (
        (raw, "Raw attention", "where the frozen model\nlooks for its answer", verdicts[0]),
        (steered, "Steered attention", "the same weights, with\nattributes and soft prompts", verdicts[1]),
    ):
        rows.append(_Row(title, explanation, attention(proposal)))
        rows.append(_Row("its mask", verdict, _best_mask(proposal, video)))

    def header(characters: int) -> list[_Line]:
        return [*_expression_lines(steered.expression, characters), *_attribute_lines(steered, characters)]

    return _Sheet(steered, video, columns, rows, header).draw()


class _Sheet:
    """Keyframes as columns, rows of pictures with their titles beside them, a header above, versions below.

    Args:
        proposal: The proposal; its keyframes are the columns.
        video: The video it was made from.
        columns: Indices in ``maps.keyframes``.
        rows: The pictures of each keyframe.
        header_for: Makes the header for a number of characters a line.
    """

    def __init__(
        self,
        proposal: Proposal,
        video: Video,
        columns: Sequence[int],
        rows: Sequence[_Row],
        header_for: Callable[[int], list[_Line]],
    ) -> None:
        self._proposal = proposal
        self._video = video
        self._columns = columns
        self._rows = rows
        aspect = video.width / video.height
        self._cell_width = min(2.15 if len(columns) > 4 else 2.7, 2.5 * aspect)
        self._cell_height = self._cell_width / aspect
        self._width = max(_LABELS + len(columns) * (self._cell_width + _GAP_X) + 2 * _MARGIN, 8.6)
        self._header = header_for(int((self._width - 2 * _MARGIN) * 7.4))
        self._header_height = 0.3 + sum(_line(line.size) for line in self._header) + 0.45
        self._height = self._header_height + len(rows) * (self._cell_height + _GAP_Y) + _FOOTER
        self._fonts = font_families()
        self._figure = Figure(figsize=(self._width, self._height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self._figure)

    def draw(self) -> Figure:
        """Draw everything."""
        self._draw_header()
        for column, k in enumerate(self._columns):
            self._draw_column_title(column, self._proposal.maps.keyframes[k])
        for number, row in enumerate(self._rows):
            self._draw_row(number, row)
        self._draw_footer()
        return self._figure

    def _write(self, x: float, y: float, text: str, size: float, colour: str = INK, **more: Any) -> None:
        """Text at inches from the left and from the top; never read as a formula."""
        font = FontProperties(family=self._fonts, size=size, weight=str(more.pop("weight", "normal")))
        self._figure.text(
            x / self._width,
            1 - y / self._height,
            text,
            color=colour,
            fontproperties=font,
            parse_math=False,
            **more,
        )

    def _left(self, column: int) -> float:
        """Inches from the left to a column."""
        return _MARGIN + _LABELS + column * (self._cell_width + _GAP_X)

    def _draw_header(self) -> None:
        y = 0.3
        for line in self._header:
            weight = "bold" if line.size > 14 else "normal"
            self._write(_MARGIN, y, line.text, line.size, line.colour, va="top", weight=weight)
            y += _line(line.size)

    def _draw_column_title(self, column: int, frame: int) -> None:
        x, y = self._left(column), self._header_height - 0.1
        self._write(x, y, f"frame {frame}", 9.5, va="bottom", weight="bold")
        seconds = f"{self._video.pts[frame]:.2f} s"
        self._write(x + self._cell_width, y, seconds, 9, FAINT, va="bottom", ha="right")

    def _draw_row(self, number: int, row: _Row) -> None:
        top = self._header_height + number * (self._cell_height + _GAP_Y)
        self._write(_MARGIN, top + 0.04, row.title, 11.5, va="top", weight="bold")
        self._write(_MARGIN, top + 0.28, row.explanation, 8.5, FAINT, va="top", linespacing=1.35)
        for column, k in enumerate(self._columns):
            axes = self._axes(
                self._left(column), top + self._cell_height, self._cell_width, self._cell_height
            )
            row.paint(axes, k)
            axes.set_xlim(0, self._video.width)
            axes.set_ylim(self._video.height, 0)

    def _draw_footer(self) -> None:
        base = self._height - _FOOTER + 0.2
        self._draw_scale(self._left(0), base)
        versions = self._proposal.versions
        shown = [
            f"{name} {versions[name]}"
            for name in ("steerseg", "preset", "lvlm", "tracker")
            if name in versions
        ]
        self._write(self._left(0), base + 0.27, "   ".join(shown), 8, FAINT, va="center")

    def _draw_scale(self, x: float, y: float) -> None:
        """The legend of the maps' colours."""
        self._write(x, y, "attention  low", 8.5, FAINT, va="center")
        start, length, thickness = x + 0.95, 1.6, 0.12
        axes = self._axes(start, y + thickness / 2, length, thickness)
        ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
        grey = np.full((1, 256, 3), 128, dtype=np.uint8)
        axes.imshow(heat_overlay(grey, ramp), aspect="auto")
        self._write(start + length + 0.08, y, "high", 8.5, FAINT, va="center")

    def _axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes without frame; all in inches, ``bottom`` from the top of the sheet."""
        axes = self._figure.add_axes(
            (
                left / self._width,
                1 - bottom / self._height,
                width / self._width,
                height / self._height,
            )
        )
        axes.set_axis_off()
        return axes


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
    """Indices in ``maps.keyframes``: evenly spread, with the one of the winner's point prompt among them."""
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


def _expression_lines(expression: str, characters: int) -> list[_Line]:
    """The expression in large letters."""
    quoted = f"“{' '.join(expression.split())}”"
    lines = textwrap.wrap(quoted, max(20, characters * 13 // 24), max_lines=3, placeholder=" …”")
    return [_Line(line, 19.0) for line in lines]


def _attribute_lines(proposal: Proposal, characters: int) -> list[_Line]:
    """The attributes, if there are any."""
    if not proposal.attributes:
        return []
    text = "attributes:  " + "  ·  ".join(proposal.attributes)
    return [_Line(line, 11.5) for line in textwrap.wrap(text, characters, max_lines=2, placeholder=" …")]


def _verdict(proposal: Proposal) -> str:
    """The best tracklet in a line."""
    if not proposal.tracklets:
        return "nothing found"
    best = proposal.best
    visible = sum(mask_area(rle) > 0 for rle in best.rles)
    others = len(proposal.tracklets) - 1
    alternatives = f", {others} alternative{'s' if others > 1 else ''}" if others else ""
    return f"found on {visible} of {len(best.rles)} frames, score {best.score:.2f}{alternatives}"


def _rows(proposal: Proposal, video: Video) -> list[_Row]:
    """The rows of :func:`maps_figure`."""
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
            _draw_point(axes, point, proposal, video)

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


def _draw_point(axes: Axes, point: PointPrompt, proposal: Proposal, video: Video) -> None:
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


def font_families() -> list[str]:
    """Fonts of this machine: the first for nearly all signs, the others for those that it lacks."""
    known = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in known)]
