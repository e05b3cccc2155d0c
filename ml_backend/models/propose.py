"""In the model process: what is done for several proposals together, and what the server keeps of each."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from ml_backend.models.reporter import YieldRequested
from ml_backend.proposals import (
    Grid,
    StoredBothWays,
    StoredMaps,
    StoredPoint,
    StoredProposal,
    StoredTracklet,
)
from steerseg.errors import Cancelled, SteerSegError
from steerseg.keyframes import VideoFeatures
from steerseg.pipeline import SteerSeg
from steerseg.points import PointPrompt
from steerseg.proposal import Proposal
from steerseg.reasoning import check_expression
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking.both_ways import BothWays
from steerseg.video import Progress, Video, keyframe_indices

log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 30
"""Frames of videos that are reasoned about together, so that the features of none push out those of another."""


def stored_proposal(proposal: Proposal, both_ways: Mapping[int, BothWays] | None = None) -> StoredProposal:
    """Keep of a proposal what the server needs; nothing of the result belongs to torch.

    Args:
        proposal: The proposal.
        both_ways: Rank of a tracklet → how it was tracked in both directions; of the others nothing is known.
    """
    maps, compared = proposal.maps, both_ways or {}
    return StoredProposal(
        expression=proposal.expression,
        attributes=proposal.attributes,
        tracklets=tuple(
            StoredTracklet(
                rles=tracklet.rles,
                frame_scores=np.asarray(tracklet.frame_scores, dtype=np.float32),
                prompt=_point(tracklet.prompt),
                score=float(tracklet.score),
                opinion=tracklet.opinion,
                both_ways=_both_ways(compared[rank]) if rank in compared else None,
            )
            for rank, tracklet in enumerate(proposal.tracklets)
        ),
        maps=StoredMaps(
            keyframes=tuple(maps.keyframes),
            frame=None if maps.frame is None else _grid(maps.frame),
            video=None if maps.video is None else _grid(maps.video),
            fused=_grid(maps.fused),
        ),
        points=tuple(_point(point) for point in proposal.points),
        pts=np.asarray(proposal.pts, dtype=np.float64),
        fps=float(proposal.fps),
        height=proposal.height,
        width=proposal.width,
        versions={name: str(version) for name, version in proposal.versions.items()},
        read_as=proposal.read_as,
        presence=proposal.presence.value,
        refused=proposal.presence.refused,
        found=proposal.presence.found,
        understood=proposal.presence.understood,
        confidence=proposal.presence.confidence,
        note=proposal.note,
    )


def _both_ways(found: BothWays) -> StoredBothWays:
    return StoredBothWays(found.frames, found.forwards, found.backwards)


def _point(point: PointPrompt) -> StoredPoint:
    return StoredPoint(frame=point.frame, x=point.x, y=point.y, value=point.value)


def _grid(values: torch.Tensor) -> Grid:
    """Three decimals of a map in [0, 1] are plenty for pictures and points."""
    rounded: Grid = np.round(values.double().cpu().numpy(), 3).tolist()
    return rounded


def reason_ahead(
    steerseg: SteerSeg,
    asked: Sequence[tuple[Video, str, Callable[[], SoftPrompts | None]]],
    progress: Progress,
) -> None:
    """Have the chains of thought of several proposals decoded together, for their proposals to find.

    That takes little longer than decoding one, on a GPU with room for several answers; nothing is done elsewhere.
    Whatever cannot be read or decoded is left to its own proposal, which says what is wrong.

    Args:
        steerseg: The models.
        asked: Each video, its expression, and what loads the soft prompts whose glossary is read; the proposal that is
            due comes first.
        progress: Called with the stage ``reasoning``; it may end the work, which the proposals then do by themselves.

    Raises:
        Cancelled: ``progress`` raised it.
        YieldRequested: The same.
    """
    lvlm, config = steerseg.lvlm, steerseg.config
    sizes = itertools.accumulate(video.frames.nbytes for video, _, _ in asked)
    asked = asked[: sum(size <= _MOST_BYTES for size in sizes)]
    if len(asked) < 2 or not lvlm.answers_together or not config.reasoning:
        return

    def report(stage: str = "", fraction: float = 0.0) -> None:
        progress("reasoning", 0.0)

    def features() -> Iterator[tuple[VideoFeatures, str]]:
        for video, expression, soft_prompts in asked:
            try:
                reading = steerseg.read(check_expression(expression), config, soft_prompts())
                seen = steerseg.encode(video, config, report)
            except Cancelled:
                raise
            except SteerSegError as error:
                log.debug("%r is not reasoned about ahead: %s", expression, error)
                continue
            yield seen, reading.text

    def decode() -> None:
        due = asked[0][0]
        keyframes = keyframe_indices(len(due), config.keyframes)
        with (
            steerseg.tracker.encoding_ahead(steerseg.open(due), keyframes) as ahead,
            lvlm.decoder.doing(ahead, report),
        ):
            steerseg.reasonings.decode_ahead(lvlm, features(), steerseg.texts, config)

    try:
        steerseg.room.work("the chains of thought", decode)
    except (Cancelled, YieldRequested):
        raise
    except Exception:  # whose fault it may be: each proposal finds out in its turn
        log.warning("chains of thought were not decoded together", exc_info=True)
