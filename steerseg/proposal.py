"""What the pipeline answers: the ranked tracklets of an expression in a video, with what they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steerseg.grounding import GroundingMaps
from steerseg.points import PointPrompt
from steerseg.presence.localisation import Positions
from steerseg.presence.signals import NOT_JUDGED, Presence
from steerseg.tracking import Tracklet
from steerseg.video import Video


@dataclass(frozen=True)
class Proposal:
    """The ranked tracklets for one (video, expression).

    Attributes:
        expression: The annotator's text, white space tidied.
        attributes: Phrases of the chain-of-thought step; empty without reasoning.
        tracklets: Best first; empty when nothing was found.
        maps: The grounding maps.
        points: Every point prompt.
        pts: (T,) presentation times in seconds.
        fps: Frames a second.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        versions: Versions of packages, preset, models and soft prompts.
        video: The video itself, for pictures; left out when a proposal crosses a process border.
        read_as: What the models read in the expression's place, in plain wording and by a glossary; empty where they
            read the expression.
        presence: How likely the expression is of anything in the video. Where it is refused, the tracklets are
            candidates for a person to choose from, and none is shown.
        several: Ranks of the tracklets that an expression of several objects means, the best first; empty where it
            means one.
        positions: Where the LVLM says that the object is; ``None`` where it was not asked, or said nothing of use.
        note: Why point prompts took the place of concepts, which concepts are left out, or on which keyframe that was
            added the object was found; empty otherwise.
    """

    expression: str
    attributes: tuple[str, ...]
    tracklets: tuple[Tracklet, ...]
    maps: GroundingMaps = field(repr=False)
    points: tuple[PointPrompt, ...] = field(repr=False)
    pts: NDArray[np.float64] = field(repr=False)
    fps: float
    height: int
    width: int
    versions: dict[str, str]
    video: Video | None = field(default=None, repr=False, compare=False)
    read_as: str = ""
    presence: Presence = NOT_JUDGED
    several: tuple[int, ...] = ()
    positions: Positions | None = None
    note: str = ""

    @property
    def shown(self) -> tuple[int, ...]:
        """Ranks of the tracklets that are the instances of the expression; none where presence is refused."""
        if self.presence.refused or not self.tracklets:
            return ()
        return self.several or (0,)

    @property
    def best(self) -> Tracklet:
        """The highest-ranked tracklet. Raises ``LookupError`` when nothing was found."""
        if not self.tracklets:
            raise LookupError("the proposal holds no tracklet; check `proposal.tracklets` first")
        return self.tracklets[0]

    def save(self, directory: str | Path) -> None:
        """Write ``proposal.json``, ``masks/``, ``overlay.mp4`` and ``maps.png``; see :mod:`steerseg.output.proposal`.

        Raises:
            SteerSegError: The folder cannot be written.
        """
        from steerseg.output.proposal import save_proposal  # with matplotlib, which a server need not load

        save_proposal(self, directory)
