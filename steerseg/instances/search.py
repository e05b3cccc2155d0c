"""The search for the instances of an expression of several objects, in rounds.

Maps of "both daggers" point at one dagger, for the soft prompts learned from single objects. So the maps are of one of
them, "the dagger". What was found is blanked out, and what the maps then point at is found next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steerseg.config import PipelineConfig
from steerseg.instances.blanking import blank_out, further_points
from steerseg.presence.judge import Case, Judge
from steerseg.ranking import RankedCandidate, rank_scores
from steerseg.runtime.room import makes_room
from steerseg.tracking import EncodedVideo, Tracker, Tracklet
from steerseg.tracking.sources import Candidates
from steerseg.tracking.tracklets import StageProgress
from steerseg.verification import Opinion, order_by_opinion
from steerseg.words.counting import InstanceCount, choose_candidates

ROUNDS = 4
"""Most rounds, the first one included (our choice)."""

PER_ROUND = 3
"""Most candidates of each further round (our choice)."""


class InstanceSearch:
    """Searches for instances.

    Args:
        tracker: Tracks further candidates over the keyframes.
        judge: Looks at candidates where its preset is calibrated; elsewhere the correlations alone decide.
        temporal_merge: Frames of a video slice.

    Attributes:
        room: The memory of the models' device.
    """

    def __init__(self, tracker: Tracker, judge: Judge, temporal_merge: int) -> None:
        self.room = tracker.room
        self._tracker = tracker
        self._judge = judge
        self._merge = temporal_merge

    @makes_room("the search for instances")
    def search(
        self,
        case: Case,
        encoded: EncodedVideo,
        first: Candidates,
        several: InstanceCount,
        config: PipelineConfig,
        progress: StageProgress,
    ) -> tuple[Candidates, tuple[RankedCandidate, ...]]:
        """The instances of an expression: candidates of the first maps, and of the maps without what was found.

        It ends when a wanted number is found, when a round finds no instance more, or after :data:`ROUNDS`.

        Args:
            case: The expression in the singular, its maps and the first candidates.
            encoded: The video.
            first: The candidates of the first maps.
            several: How many instances are meant.
            config: Thresholds of points and duplicates; ``alternatives`` candidates are ranked.
            progress: Told of each round, which may stop the search.

        Returns:
            The candidates of all rounds, and the best of them, best first: those of the expression's kind, then those
            that nobody looked at, then the others. A score is the correlation with the maps of the candidate's round.
        """
        tracked = case.on_keyframes
        found: list[RankedCandidate] = []
        seen: list[Tracklet] = []
        points, maps, new, before = list(first.points), case.maps, tracked, -1
        for count in range(ROUNDS):
            progress(count / ROUNDS)
            graded = self._graded(replace(case, maps=maps, on_keyframes=new), len(seen), config)
            found += graded
            seen += [
                replace(tracklet, score=ranked.score, opinion=ranked.opinion)
                for tracklet, ranked in zip(new.tracklets(), graded, strict=True)
            ]
            accepted = _accepted(seen, several)
            if accepted == before or accepted >= several.most or not tracked.candidates:
                break
            before = accepted
            maps = blank_out(case.maps, tracked.soft_masks(), self._merge)
            further = further_points(case.maps, maps, config)
            points += further
            known = tracked.candidates
            fewer = replace(config, max_candidates=PER_ROUND)
            frames = case.maps.keyframes
            objects = self._tracker.candidates(encoded, further, fewer, keyframes=frames, known=known)
            new = self._tracker.propagate(encoded, objects, frames=frames)
            tracked = self._tracker.propagate(encoded, [*known, *objects], frames=frames)
        progress(1.0)
        order = _in_order(seen)[: config.alternatives]
        return Candidates(tuple(points), tracked, first.note), tuple(found[i] for i in order)

    def _graded(self, case: Case, start: int, config: PipelineConfig) -> list[RankedCandidate]:
        """The candidates of one round with their correlations and, where the preset is calibrated, opinions.

        Args:
            case: The expression, and maps and candidates of the round.
            start: Index of the round's first candidate among those of all rounds.
            config: Weights of the maps.
        """
        new = case.on_keyframes
        if not new.candidates:
            return []
        masks, weight = new.soft_masks(), config.frame_weight
        scores = rank_scores(masks, case.maps, frame_weight=weight, temporal_merge=self._merge).tolist()
        opinions: list[Opinion | None] = [None] * len(scores)
        if self._judge.can_judge(config):
            looks = [self._judge.look(case, index, score) for index, score in enumerate(scores)]
            opinions = [self._judge.opinion_of_kind(case, look) for look in looks]
        return [
            RankedCandidate(start + index, score, score, opinion)
            for index, (score, opinion) in enumerate(zip(scores, opinions, strict=True))
        ]


def _accepted(seen: Sequence[Tracklet], several: InstanceCount) -> int:
    """How many instances there are so far: different objects, and none that the LVLM rejected."""
    ordered = [seen[i] for i in _in_order(seen)]
    chosen = [ordered[rank] for rank in choose_candidates(ordered, several)]
    return sum(one.opinion is None or one.opinion.stance != "rejected" for one in chosen)


def _in_order(seen: Sequence[Tracklet]) -> list[int]:
    """Indices of tracklets, best first: by the LVLM's opinion, then by score."""
    by_score = sorted(range(len(seen)), key=lambda i: -seen[i].score)
    return [by_score[i] for i in order_by_opinion([seen[i].opinion for i in by_score])]
