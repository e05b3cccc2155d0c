"""What annotators are told of a proposal: its object, score, frames and attributes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ml_backend.proposals import StoredProposal
from steerseg.masks import RLE, decode_rle, mask_area
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


def describe_proposal(proposal: StoredProposal, rank: int = 0, guidance: Guidance = DEFAULT_GUIDANCE) -> str:
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


def place_of(rle: RLE) -> str:
    """Where a mask lies in its frame, in words: ``top left``, ``middle``, ..."""
    rows, columns = np.nonzero(decode_rle(rle))
    height, width = rle["size"]
    return _place_words((float(columns.mean()) + 0.5) / width, (float(rows.mean()) + 0.5) / height)


def _place_words(x: float, y: float) -> str:
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return f"{down} {across}".strip() or "middle"


def candidates(proposal: StoredProposal, taken: Collection[int]) -> str:
    """The other candidates by number, so that an annotator can pick one; empty where there are none.

    Args:
        proposal: The proposal.
        taken: Ranks of those that are shown.
    """
    named = []
    for rank, tracklet in enumerate(proposal.tracklets):
        visible = [(t, rle) for t, rle in enumerate(tracklet.rles) if mask_area(rle)]
        if rank not in taken and visible:
            t, rle = visible[0]
            named.append(f"#{rank + 1} ({place_of(rle)} of frame {t + 1}, score {tracklet.score:.2f})")
    if not named:
        return ""
    return f"Other candidates: {', '.join(named)}; to take one, type its number, like {named[0].split()[0]}."


def attributes(proposal: StoredProposal) -> str:
    """How the words were taken; empty without attributes."""
    return f"Taken as: {', '.join(proposal.attributes)}." if proposal.attributes else ""


def describe_answer(proposal: StoredProposal, rank: int, guidance: Guidance) -> str:
    """The answer to an expression: :func:`describe_proposal`, the attributes and the other candidates."""
    if not proposal.tracklets:
        return describe_proposal(proposal, guidance=guidance) + _closest(proposal)
    text = describe_proposal(proposal, rank, guidance)
    parts = [text, "" if "words were taken" in text else attributes(proposal), candidates(proposal, {rank})]
    return " ".join(part for part in parts if part)


def describe_instances(
    proposal: StoredProposal, ranks: Sequence[int], labels: Sequence[str], meant: int | None
) -> str:
    """What is told of several objects.

    Args:
        proposal: The proposal.
        ranks: The chosen candidates.
        labels: Of each, the label that it was given.
        meant: How many the expression means; ``None`` for all there are.
    """
    total = len(proposal.tracklets[ranks[0]].rles)
    each = []
    for rank, label in zip(ranks, labels, strict=True):
        tracklet = proposal.tracklets[rank]
        shown = sum(mask_area(rle) > 0 for rle in tracklet.rles)
        each.append(f"{label} on {shown} of {total} frames (score {tracklet.score:.2f})")
    count = f"{len(ranks)} of {meant} objects" if meant and meant > len(ranks) else f"{len(ranks)} objects"
    if len(ranks) == 1:
        count = count.replace("objects", "object") if not (meant and meant > 1) else count
    parts = [f"Tracked {count} for “{proposal.expression}”: {'; '.join(each)}."]
    parts += [attributes(proposal), candidates(proposal, ranks)]
    return " ".join(part for part in parts if part)


def _closest(proposal: StoredProposal) -> str:
    """Where the map was highest, for an annotator to look at; empty where no point was tried."""
    best = max(proposal.points, key=lambda point: point.value, default=None)
    if best is None:
        return ""
    where = f"{_place_words(best.x, best.y)} of frame {best.frame + 1}"
    return f" The closest was at the {where}: if that is it, click on it."
