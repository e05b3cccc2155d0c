"""In the model process: a proposal becomes the plain data that the server keeps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ml_backend.proposals import (
    Grid,
    StoredBothWays,
    StoredMaps,
    StoredPoint,
    StoredProposal,
    StoredTracklet,
)
from steerseg.points import PointPrompt
from steerseg.proposal import Proposal
from steerseg.tracking.both_ways import BothWays


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
