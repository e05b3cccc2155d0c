"""Texts for annotators about a proposal: its tracklets with score and frames, its attributes, its candidates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from ml_backend.proposals import StoredProposal, StoredTracklet
from steerseg.masks import RLE, decode_rle, mask_area
from steerseg.presence.confidence import EVEN
from steerseg.presence.signals import is_negated
from steerseg.presets import Preset
from steerseg.words.learning import Lexicon

_OTHER_SIZE = 1.4
"""Areas that differ by as much look different."""

_ADVICE = "Try a plainer expression: name the object, then its colour, its position or how it moves."


@dataclass(frozen=True)
class Guidance:
    """A preset's notes on its answers; see :class:`steerseg.presets.Preset`.

    Attributes:
        hint: What its models understand, for annotators; may be empty.
        unsure_below: A best score below it is called unsure.
        lexicon: The words that its models know, where they can be listed.
        page: Address of the page that lists them; empty where there is none.
        reads_expressions: Whether there is a language model; without one, only clicks and boxes are answered.
    """

    hint: str = ""
    unsure_below: float = 0.2
    lexicon: Lexicon = field(default_factory=Lexicon)
    page: str = ""
    reads_expressions: bool = True

    @classmethod
    def of(cls, preset: Preset, page: str = "") -> Guidance:
        """The guidance of a preset.

        Args:
            preset: The preset.
            page: Address of the page that lists words, where the preset knows which its models know.
        """
        lexicon = preset.load_lexicon()
        return cls(
            preset.hint,
            preset.unsure_below,
            lexicon,
            page if lexicon.words else "",
            reads_expressions=preset.lvlm is not None,
        )

    def describe_unknown(self, expression: str) -> str:
        """Name the words of an expression that the models were never taught; empty without such a word."""
        words = self.lexicon.unknown(expression)
        if not words:
            return ""
        named = joined([f"“{word}”" for word in words])
        return f"I do not know {named}." + (f" My words: {self.page}" if self.page else "")

    def least_sure(self, *, calibrated: bool) -> float:
        """The least score that is not called unsure.

        Args:
            calibrated: Whether the score is a confidence, and no rank score.
        """
        return EVEN if calibrated else self.unsure_below

    def shown_score(self, score: float, *, calibrated: bool = False) -> str:
        """A score with two decimals, which lie on the same side of the bound as the score itself.

        Args:
            score: The score.
            calibrated: See :meth:`least_sure`.
        """
        least = self.least_sure(calibrated=calibrated)
        text, bound = f"{score:.2f}", f"{least:.2f}"
        if score < least and float(text) >= float(bound):
            return f"{float(bound) - 0.01:.2f}"
        return text


DEFAULT_GUIDANCE = Guidance()


def _named(proposal: StoredProposal) -> str:
    """The expression in quotation marks, and what the project's glossary made of it."""
    read_as = f", read as “{proposal.read_as}”," if proposal.read_as else ""
    return f"“{proposal.expression}”{read_as}"


def describe_proposal(
    proposal: StoredProposal, rank: int = 0, guidance: Guidance = DEFAULT_GUIDANCE, title: str = ""
) -> str:
    """Describe one tracklet of a proposal and, where its score is low, what to try.

    Args:
        proposal: The proposal.
        rank: The tracklet that the text stands beside, from 0.
        guidance: The preset's notes on its answers.
        title: The instance that it becomes, as annotators call it; empty in predictions.
    """
    parts = [_describe_finding(proposal, rank, guidance, title)]
    if _needs_advice(proposal, rank, guidance):
        parts.append(_advice(proposal, guidance))
    return " ".join(parts)


def _needs_advice(proposal: StoredProposal, rank: int, guidance: Guidance) -> bool:
    """Whether nothing was found, or the best tracklet that is shown scores low."""
    if not proposal.tracklets:
        return True
    return rank == 0 and bool(_describe_doubt(proposal, guidance))


def _describe_doubt(proposal: StoredProposal, guidance: Guidance) -> str:
    """That the best tracklet is unsure, as a sentence; empty where it is sure."""
    calibrated = proposal.confidence is not None
    least = guidance.least_sure(calibrated=calibrated)
    score = proposal.tracklets[0].score if proposal.confidence is None else proposal.confidence
    if score >= least:
        return ""
    if calibrated:
        return "Unsure: it is more likely wrong than right."
    return f"Unsure: a clear match scores {least:.2f} or more."


def _describe_finding(proposal: StoredProposal, rank: int, guidance: Guidance, title: str) -> str:
    """What was found, the decisive sentence first: an annotator sees three lines of a message, or two."""
    unknown = guidance.describe_unknown(proposal.read_as or proposal.expression)
    if not proposal.tracklets:
        nothing = f"Nothing in the video matches {_named(proposal)}."
        return " ".join(filter(None, (nothing, unknown, proposal.note)))
    tracklet = proposal.tracklets[rank]
    hidden = [index for index, rle in enumerate(tracklet.rles) if mask_area(rle) == 0]
    total = len(tracklet.rles)
    begin = (
        f"{capitalised(title)} is {_named(proposal).rstrip(',')}, tracked"
        if title
        else f"Tracked {_named(proposal)}"
    )
    figures = f"score {guidance.shown_score(tracklet.score)}"
    if rank == 0 and proposal.confidence is not None:
        figures = described_confidence(proposal.confidence)
    elif rank == 0 and proposal.presence is not None:
        figures += f", {described_presence(proposal)}"
    figures += _described_opinion(tracklet)
    text = f"{begin} on {total - len(hidden)} of {total} frames ({figures})"
    text += f"; not visible on {frame_ranges(hidden)}." if hidden else "."
    if rank > 0:
        text = f"Candidate #{rank + 1} of {len(proposal.tracklets)}. {text}"
    else:
        text = f"{text} {_describe_doubt(proposal, guidance)}".strip()
    return " ".join(filter(None, (text, unknown, proposal.note)))


def describe_answer(
    proposal: StoredProposal, rank: int, guidance: Guidance, title: str = "", replaced: str = ""
) -> str:
    """Describe the answer to an expression: one tracklet, the other candidates, and how the expression was understood.

    Args:
        proposal: The proposal.
        rank: The tracklet that is shown, from 0; any number where there is none.
        guidance: The preset's notes on its answers.
        title: The instance that it becomes, as annotators call it; empty where it has no name.
        replaced: What it replaces, as a sentence; empty where it replaces nothing.
    """
    parts = [_describe_finding(proposal, rank, guidance, title), replaced]
    if proposal.tracklets:
        parts.append(_describe_candidates(proposal, {rank}, guidance))
    else:
        parts.append(_describe_closest_point(proposal))
    needs_advice = _needs_advice(proposal, rank, guidance)
    parts.append(_advice(proposal, guidance) if needs_advice else _describe_attributes(proposal))
    return " ".join(part for part in parts if part)


def describe_absence(proposal: StoredProposal, guidance: Guidance) -> str:
    """Why there is no prediction: presence is refused, or nothing was found."""
    if proposal.refused:
        return describe_refusal(proposal, guidance)
    nothing = f"nothing in the video matches {proposal.expression!r}"
    return f"{nothing}. {proposal.note}" if proposal.note else nothing


def described_confidence(confidence: float) -> str:
    """Such as ``confidence 0.93``; on the side of :data:`EVEN` on which it is."""
    return f"confidence {DEFAULT_GUIDANCE.shown_score(confidence, calibrated=True)}"


def described_presence(proposal: StoredProposal) -> str:
    """How likely the expression is of anything in the video, such as ``presence 0.07``; empty where nobody judged."""
    return "" if proposal.presence is None else f"presence {proposal.presence:.2f}"


def describe_refusal(proposal: StoredProposal, guidance: Guidance, *, verdict: str = "") -> str:
    """Describe a proposal of which nothing is shown, since its expression is hardly of anything in the video.

    Args:
        proposal: The proposal.
        guidance: The preset's notes on its answers.
        verdict: The verdict that says so, as the annotator's tool calls it; empty where it has none.
    """
    named = _named(proposal).rstrip(",")
    likely = f" ({described_presence(proposal)})" if proposal.presence is not None else ""
    accept = ""
    if proposal.understood:
        begin = f"{named} is hardly in the video{likely}, so nothing is shown."
        accept = f"If it is not there, choose the verdict “{verdict}” and submit." if verdict else ""
    elif is_negated(proposal.read_as or proposal.expression):
        begin = f"{named} is hardly understood{likely}, so nothing is shown: it says what the object is not."
    else:
        begin = f"{named} is hardly understood{likely}, so nothing is shown: it has words that the models do not know."
    parts = (
        begin,
        f"What comes closest looks like “{proposal.found}”." if proposal.found else "",
        accept,
        "To take the best candidate anyway, type #1.",
        _ADVICE,
        guidance.hint,
        proposal.note,
    )
    return " ".join(part for part in parts if part)


def describe_instances(
    proposal: StoredProposal,
    ranks: Sequence[int],
    labels: Sequence[str],
    meant: int | None,
    guidance: Guidance = DEFAULT_GUIDANCE,
    replaced: str = "",
) -> str:
    """Describe the answer to an expression that means several instances.

    Args:
        proposal: The proposal.
        ranks: The chosen candidates.
        labels: The label that each was given.
        meant: How many the expression means; ``None`` for all there are.
        guidance: The preset's notes on its answers.
        replaced: What they replace, as a sentence; empty where they replace nothing.
    """
    total = len(proposal.tracklets[ranks[0]].rles)
    each = []
    for rank, label in zip(ranks, labels, strict=True):
        tracklet = proposal.tracklets[rank]
        visible = sum(mask_area(rle) > 0 for rle in tracklet.rles)
        each.append(f"{label} on {visible} of {total} frames (score {guidance.shown_score(tracklet.score)})")
    if meant is not None and meant > len(ranks):
        count = f"{len(ranks)} of {meant} objects"
    else:
        count = "1 object" if len(ranks) == 1 else f"{len(ranks)} objects"
    likely = f" ({described_presence(proposal)})" if proposal.presence is not None else ""
    parts = [
        f"Tracked {count} for “{proposal.expression}”{likely}: {'; '.join(each)}.",
        guidance.describe_unknown(proposal.read_as or proposal.expression),
        proposal.note,
        replaced,
        _describe_candidates(proposal, ranks, guidance),
        _describe_attributes(proposal),
    ]
    return " ".join(part for part in parts if part)


def capitalised(text: str) -> str:
    """A text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def joined(parts: Sequence[str]) -> str:
    """Parts of a sentence, such as ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def frame_ranges(indices: Sequence[int], most: int = 4) -> str:
    """Frame numbers as a person counts them, from 1, such as ``3, 12–13``.

    Args:
        indices: Frame indices from 0, rising.
        most: Ranges that are named; an ellipsis stands for the rest.
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    shown = [str(a + 1) if a == b else f"{a + 1}–{b + 1}" for a, b in runs[:most]]
    return ", ".join(shown) + (", …" if len(runs) > most else "")


def _advice(proposal: StoredProposal, guidance: Guidance) -> str:
    """How the expression was understood, and what to try."""
    known = f"The page {guidance.page} lists its words." if guidance.page else ""
    parts = (_describe_attributes(proposal), _ADVICE, guidance.hint, known)
    return " ".join(part for part in parts if part)


def _describe_attributes(proposal: StoredProposal) -> str:
    """The attributes that the expression was understood as; empty without attributes."""
    return f"Understood as “{', '.join(proposal.attributes)}”." if proposal.attributes else ""


def _describe_candidates(proposal: StoredProposal, shown: Collection[int], guidance: Guidance) -> str:
    """The other candidates by number, so that an annotator can choose one; empty where there are none.

    Args:
        proposal: The proposal.
        shown: Ranks of the candidates that are shown already.
        guidance: The preset's notes on its answers.
    """
    places = _places(proposal)
    named = [
        f"#{rank + 1} ({place}, score {guidance.shown_score(proposal.tracklets[rank].score)}"
        f"{_described_opinion(proposal.tracklets[rank])})"
        for rank, place in places.items()
        if rank not in shown
    ]
    if not named:
        return ""
    return f"Other candidates: {', '.join(named)}. To choose one, type its number, such as {named[0].split()[0]}."


def _described_opinion(tracklet: StoredTracklet) -> str:
    """What the language model thinks of a candidate, such as ``, rejected: a cat``; empty where it was not asked."""
    return "" if tracklet.opinion is None else f", {tracklet.opinion}"


def _places(proposal: StoredProposal) -> dict[int, str]:
    """By rank, what tells a candidate from the others: its place, else its size, else the frames that show it."""
    visible = {
        rank: frames
        for rank, tracklet in enumerate(proposal.tracklets)
        if (frames := [t for t, rle in enumerate(tracklet.rles) if mask_area(rle)])
    }
    common = sorted(set.intersection(*map(set, visible.values()))) if visible else []
    masks = {rank: (common or frames)[0] for rank, frames in visible.items()}
    places = {
        rank: f"{_mask_position(proposal.tracklets[rank].rles[t])} of frame {t + 1}"
        for rank, t in masks.items()
    }
    areas = {rank: mask_area(proposal.tracklets[rank].rles[t]) for rank, t in masks.items()}
    sizes = {rank: _relative_size(area, areas.values()) for rank, area in areas.items()}
    for more in (sizes, {rank: f"on frames {frame_ranges(frames)}" for rank, frames in visible.items()}):
        known = list(places.values())
        places = {
            rank: place if known.count(place) == 1 or not more[rank] else f"{place}, {more[rank]}"
            for rank, place in places.items()
        }
    return places


def _relative_size(area: int, areas: Collection[int]) -> str:
    """The size of a mask among others; empty where all are about as large."""
    if max(areas) < _OTHER_SIZE * min(areas):
        return ""
    return (
        "large"
        if area * _OTHER_SIZE > max(areas)
        else "small"
        if area < _OTHER_SIZE * min(areas)
        else "medium"
    )


def _describe_closest_point(proposal: StoredProposal) -> str:
    """The point where the grounding map is highest, for an annotator to look at; empty without points."""
    best = max(proposal.points, key=lambda point: point.value, default=None)
    if best is None:
        return ""
    where = f"{_position(best.x, best.y)} of frame {best.frame + 1}"
    return f"The closest match was at the {where}. If it is the object, click on it."


def _mask_position(rle: RLE) -> str:
    """The position of a mask in its frame: ``top left``, ``middle``, ..."""
    rows, columns = np.nonzero(decode_rle(rle))
    height, width = rle["size"]
    return _position((float(columns.mean()) + 0.5) / width, (float(rows.mean()) + 0.5) / height)


def _position(x: float, y: float) -> str:
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return f"{down} {across}".strip() or "middle"
