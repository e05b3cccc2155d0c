"""What an annotator is told about a proposal: one line of text beside the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ml_backend.proposals import StoredProposal
from steerseg.masks import mask_area
from steerseg.presets import Preset

_ADVICE = "Try plainer words: name the object, then its colour, its place or how it moves."


@dataclass(frozen=True)
class Guidance:
    """What a preset says about its answers; see :class:`steerseg.presets.Preset`.

    Attributes:
        hint: What its models understand, for annotators; may be empty.
        unsure_below: A best score below it is called unsure.
    """

    hint: str = ""
    unsure_below: float = 0.2

    @classmethod
    def of(cls, preset: Preset) -> Guidance:
        """The guidance of a preset."""
        return cls(preset.hint, preset.unsure_below)


DEFAULT_GUIDANCE = Guidance()


def tell(proposal: StoredProposal, rank: int = 0, guidance: Guidance = DEFAULT_GUIDANCE) -> str:
    """What was found, how sure that is and, where it is not, what to try.

    Args:
        proposal: The answer.
        rank: Which of its tracklets the text stands beside, from 0.
        guidance: What the preset says about its answers.
    """
    if not proposal.tracklets:
        return f"Nothing in the video matches “{proposal.expression}”. {_help(proposal, guidance)}"
    tracklet = proposal.tracklets[rank]
    hidden = [index for index, rle in enumerate(tracklet.rles) if mask_area(rle) == 0]
    total = len(tracklet.rles)
    text = (
        f"Tracked “{proposal.expression}” on {total - len(hidden)} of {total} frames "
        f"(score {tracklet.score:.2f})"
    )
    text += f"; not visible on {ranges(hidden)}." if hidden else "."
    if rank > 0:
        return f"#{rank + 1} of {len(proposal.tracklets)}, another candidate. {text}"
    if tracklet.score < guidance.unsure_below:
        text += (
            f" Unsure: no candidate scores higher, and clear matches score {guidance.unsure_below:.2f} or more. "
            f"{_help(proposal, guidance)}"
        )
    return text


def _help(proposal: StoredProposal, guidance: Guidance) -> str:
    """How the words were taken, and what to try."""
    taken = f"The words were taken for “{', '.join(proposal.attributes)}”." if proposal.attributes else ""
    return " ".join(part for part in (taken, _ADVICE, guidance.hint) if part)


def ranges(indices: Sequence[int], most: int = 4) -> str:
    """Frames as a person counts them, from 1: ``3, 12–13``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    shown = [str(a + 1) if a == b else f"{a + 1}–{b + 1}" for a, b in runs[:most]]
    return ", ".join(shown) + (", …" if len(runs) > most else "")
