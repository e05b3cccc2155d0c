"""How much of a map lies on borders and corners, whatever is asked: attention sinks.

Language models park attention that they have no use for on a few tokens. Where these are visual, they lie mostly on the
border of the picture, and a point prompt on them finds no object. Reported for Qwen3-VL, whose raw attention gathers
in the top-left corner (arXiv 2510.23095).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch

from steerseg.config import PipelineConfig
from steerseg.grounding import maps_from, roll_out
from steerseg.keyframes import show_keyframes, timing_of
from steerseg.lvlm import LVLM
from steerseg.presets import Preset
from steerseg.reasoning import check_expression, expression_as
from steerseg.soft_prompts import SoftPrompts
from steerseg.video import Video, keyframe_indices


@dataclass(frozen=True)
class SinkShares:
    """Shares in [0, 1] of a map's mass, and of its slices, that lie on the outermost cells.

    Attributes:
        border: Of the mass, on the outermost ring of cells.
        corners: Of the mass, on the four corner cells.
        top_left: Of the mass, on the first cell.
        border_cells: Of the cells, which an even map has on its border.
        corner_cells: The same of the corners.
        border_peaks: Of the slices, those whose highest cell is on the border.
        corner_peaks: The same in a corner.
    """

    border: float
    corners: float
    top_left: float
    border_cells: float
    corner_cells: float
    border_peaks: float
    corner_peaks: float

    @classmethod
    def of(cls, maps: torch.Tensor) -> SinkShares:
        """Measure maps (N, h, w) that are not negative. Slices count alike; those without any mass are left out.

        Raises:
            ValueError: There is no mass at all.
        """
        maps = maps[maps.sum(dim=(1, 2)) > 0].double()
        if not len(maps):
            raise ValueError("the maps are empty: no cell has any mass")
        height, width = maps.shape[1:]
        border = torch.ones(height, width, dtype=torch.bool)
        border[1:-1, 1:-1] = False
        corners = torch.zeros(height, width, dtype=torch.bool)
        corners[:: max(1, height - 1), :: max(1, width - 1)] = True
        mass = (maps / maps.sum(dim=(1, 2), keepdim=True)).flatten(1)
        highest = mass.argmax(dim=1)

        def share(cells: torch.Tensor) -> float:
            return float(mass[:, cells.flatten()].sum(dim=1).mean())

        def peaks(cells: torch.Tensor) -> float:
            return float(cells.flatten()[highest].double().mean())

        return cls(
            border=share(border),
            corners=share(corners),
            top_left=float(mass[:, 0].mean()),
            border_cells=float(border.double().mean()),
            corner_cells=float(corners.double().mean()),
            border_peaks=peaks(border),
            corner_peaks=peaks(corners),
        )

    @classmethod
    def mean(cls, shares: Sequence[SinkShares]) -> SinkShares:
        """The mean over clips."""
        means = {
            field.name: sum(getattr(one, field.name) for one in shares) / len(shares) for field in fields(cls)
        }
        return cls(**means)


class SinkMeter:
    """Measures the maps of a preset, without SAM 2.

    Args:
        lvlm: The preset's model.
        preset: Its budgets, layers and questions.
        soft_prompts: They steer the attention; ``None`` for the raw attention.
        config: Keyframes, granularity and head weighting; with ``background``, the maps without it are measured too.
    """

    def __init__(
        self, lvlm: LVLM, preset: Preset, soft_prompts: SoftPrompts | None, config: PipelineConfig
    ) -> None:
        self._lvlm = lvlm
        self._preset = preset
        self._soft_prompts = None if soft_prompts is None else soft_prompts.to(lvlm.device)
        self._config = config
        self._layers = lvlm.rollout_layers(preset.layers, preset.name)

    def measure(
        self, video: Video, expression: str, tick: Callable[[float], None] = lambda fraction: None
    ) -> dict[str, SinkShares]:
        """The shares of each map of one clip by the map's name, in the order in which they are made.

        Args:
            video: The clip.
            expression: What is asked for; no attributes are named.
            tick: Called with the fraction done.

        Raises:
            ExpressionError: The expression cannot be used.
        """
        expression = check_expression(expression)
        family, preset = self._lvlm.family, self._preset
        keyframes = keyframe_indices(len(video), self._config.keyframes)
        merge = family.temporal_merge
        context = show_keyframes(
            self._lvlm,
            preset,
            self._config,
            video.frames[list(keyframes)],
            keyframes,
            timing_of(video.pts, video.duration, keyframes, self._config, merge),
            tick=lambda fraction: tick(0.3 * fraction),
        )
        expression = expression_as(self._config.expression_form, expression)
        questions = [(preset.texts.grounding_question(expression, ()), self._soft_prompts)]
        if self._config.background:
            questions.append((preset.texts.background_question(expression), None))

        def part(index: int) -> Callable[[float], None]:
            return lambda fraction: tick(0.3 + 0.7 * (index + fraction) / len(questions))

        rolled = [
            roll_out(
                self._lvlm,
                context,
                question,
                steering,
                self._config,
                layers=self._layers,
                frame_batch=preset.frame_batch,
                tick=part(index),
            )
            for index, (question, steering) in enumerate(questions)
        ]
        tick(1.0)
        maps = {"frame, raw": rolled[0].frame, "video, raw": rolled[0].video}
        maps["fused"] = maps_from(
            rolled[0], None, keyframes, family.temporal_merge, self._config.borders
        ).fused
        if self._config.background:
            maps["fused, less background"] = maps_from(
                rolled[0], rolled[1], keyframes, family.temporal_merge, self._config.borders
            ).fused
        return {
            name: SinkShares.of(one.cpu()) for name, one in maps.items() if one is not None and one.sum() > 0
        }


def sinks_table(measured: dict[str, dict[str, SinkShares]]) -> str:
    """A row for each map of each clip, and the means where there are several clips.

    Args:
        measured: Clip -> map -> shares.
    """
    lines = [
        "| clip | map | mass on the border | even: | mass in the corners | even: | top left | highest cell on the "
        "border | in a corner |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = dict(measured)
    if len(measured) > 1:
        names = dict.fromkeys(name for maps in measured.values() for name in maps)
        rows["**mean**"] = {
            name: SinkShares.mean([maps[name] for maps in measured.values() if name in maps])
            for name in names
        }
    for clip, maps in rows.items():
        for index, (name, shares) in enumerate(maps.items()):
            lines.append(
                f"| {clip if index == 0 else ''} | {name} | {shares.border:.1%} | {shares.border_cells:.1%} | "
                f"{shares.corners:.2%} | {shares.corner_cells:.2%} | {shares.top_left:.2%} | "
                f"{shares.border_peaks:.0%} | {shares.corner_peaks:.0%} |"
            )
    return "\n".join(lines)
