"""SteerSeg: the whole way from a video and an expression to a ranked proposal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steerseg.grounding import GroundingMaps
from steerseg.points import PointPrompt
from steerseg.tracking import Tracklet

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the fraction in [0, 1] of that stage that is done. May raise
:class:`steerseg.errors.Cancelled` to stop the work."""


@dataclass(frozen=True)
class Proposal:
    """The ranked tracklets for one (video, expression)."""

    expression: str
    attributes: tuple[str, ...]
    tracklets: tuple[Tracklet, ...]  # best first; may be empty
    maps: GroundingMaps = field(repr=False)
    points: tuple[PointPrompt, ...] = field(repr=False)
    pts: NDArray[np.float64] = field(repr=False)  # (T,) seconds
    fps: float
    height: int
    width: int
    versions: dict[str, str]  # what took part: packages, preset, LVLM, SAM 2, soft prompts

    @property
    def best(self) -> Tracklet:
        """The highest-ranked tracklet. Raises ``LookupError`` when nothing was found."""
        if not self.tracklets:
            raise LookupError("the proposal holds no tracklet; check `proposal.tracklets` first")
        return self.tracklets[0]

    def save(self, directory: str | Path) -> None: ...
