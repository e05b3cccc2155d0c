"""What some keyframes of a video show of an expression, before it is tracked over the whole video."""

from __future__ import annotations

from dataclasses import dataclass

from steerseg.keyframes import VideoFeatures
from steerseg.presence.judge import Case
from steerseg.presence.localisation import Positions
from steerseg.presence.signals import Presence
from steerseg.ranking import RankedCandidate
from steerseg.tracking.sources import Candidates
from steerseg.words.reading import Reading


@dataclass(frozen=True)
class Finding:
    """What some keyframes show of an expression.

    Attributes:
        reading: The expression as the models read it.
        features: The keyframes, as the models see them.
        attributes: Phrases of the chain-of-thought step; empty without reasoning.
        positions: Where the LVLM says that the object is; ``None`` where it was not asked, or said nothing of use.
        candidates: The objects that were found.
        case: The expression, or one of the several objects that it means; its maps and its candidates.
        ranking: The best candidates, best first.
        presence: How likely the expression is of anything there.
        note: Which keyframes were added, for a person; empty where none were.
    """

    reading: Reading
    features: VideoFeatures
    attributes: tuple[str, ...]
    positions: Positions | None
    candidates: Candidates
    case: Case
    ranking: tuple[RankedCandidate, ...]
    presence: Presence
    note: str = ""
