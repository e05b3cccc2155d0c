"""Proposals as the server keeps them: plain data without model libraries, and gzipped JSON files of it."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.database.errors import StoreError
from ml_backend.database.tables import ProposalKey
from steerseg.errors import ArtefactError
from steerseg.masks import RLE
from steerseg.runtime.artefacts import write_bytes

if TYPE_CHECKING:  # these come with torch, which only the model process loads
    import torch

    from steerseg.pipeline import Proposal
    from steerseg.points import PointPrompt

FORMAT = 1
Grid = list[list[list[float]]]


@dataclass(frozen=True)
class StoredPoint:
    """A point prompt; see :class:`steerseg.points.PointPrompt`."""

    frame: int
    x: float
    y: float
    value: float


@dataclass(frozen=True)
class StoredTracklet:
    """A tracklet; see :class:`steerseg.tracking.tracklets.Tracklet`.

    Attributes:
        rles: One encoded (H, W) mask per frame.
        frame_scores: (T,) float32 in [0, 1].
        prompt: The point that started it.
        score: Rank score in [-1, 1].
    """

    rles: tuple[RLE, ...] = field(repr=False)
    frame_scores: NDArray[np.float32] = field(repr=False)
    prompt: StoredPoint
    score: float


@dataclass(frozen=True)
class StoredMaps:
    """Grounding maps as nested lists, rounded; see :class:`steerseg.grounding.GroundingMaps`."""

    keyframes: tuple[int, ...]
    frame: Grid | None
    video: Grid | None
    fused: Grid


@dataclass(frozen=True)
class StoredProposal:
    """A proposal; see :class:`steerseg.pipeline.Proposal`.

    Attributes:
        tracklets: Best first; empty when nothing was found.
        pts: (T,) presentation times in seconds.
    """

    expression: str
    attributes: tuple[str, ...]
    tracklets: tuple[StoredTracklet, ...]
    maps: StoredMaps = field(repr=False)
    points: tuple[StoredPoint, ...] = field(repr=False)
    pts: NDArray[np.float64] = field(repr=False)
    fps: float
    height: int
    width: int
    versions: dict[str, str]

    @classmethod
    def from_proposal(cls, proposal: Proposal) -> StoredProposal:
        """Keep of a proposal what the server needs; runs in the model process."""
        maps = proposal.maps
        return cls(
            expression=proposal.expression,
            attributes=proposal.attributes,
            tracklets=tuple(
                StoredTracklet(
                    rles=tracklet.rles,
                    frame_scores=np.asarray(tracklet.frame_scores, dtype=np.float32),
                    prompt=_point(tracklet.prompt),
                    score=float(tracklet.score),
                )
                for tracklet in proposal.tracklets
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
        )


class ProposalFiles:
    """The proposals below one folder.

    Args:
        data_dir: The backend's data folder; proposals lie in ``proposals/`` below it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir

    def save(self, key: ProposalKey, proposal: StoredProposal) -> str:
        """Write a proposal and return its path relative to the data folder. It is on disk when this returns.

        Raises:
            StoreError: The disk is full or not writable.
        """
        name = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()
        relative = Path("proposals") / name[:2] / f"{name}.json.gz"
        content = gzip.compress(json.dumps(_to_json(proposal), separators=(",", ":")).encode(), 6, mtime=0)
        try:
            write_bytes(self._root / relative, content)
        except ArtefactError as error:
            raise StoreError(f"the proposal was not kept: {error} (STEERSEG_DATA_DIR)") from error
        return relative.as_posix()

    def load(self, path: str) -> StoredProposal:
        """Read a proposal back.

        Raises:
            StoreError: The file is missing or damaged.
        """
        try:
            return _from_json(json.loads(gzip.decompress((self._root / path).read_bytes())))
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the stored proposal {path} cannot be read ({type(error).__name__}); it is made anew"
            ) from error


def _to_json(proposal: StoredProposal) -> dict[str, Any]:
    stored = asdict(proposal)
    stored["format"] = FORMAT
    stored["pts"] = proposal.pts.tolist()
    for tracklet in stored["tracklets"]:
        tracklet["frame_scores"] = [round(float(score), 5) for score in tracklet["frame_scores"]]
    return stored


def _from_json(stored: dict[str, Any]) -> StoredProposal:
    if stored["format"] != FORMAT:
        raise ValueError(f"format {stored['format']}, expected {FORMAT}")
    maps = stored["maps"]
    return StoredProposal(
        expression=stored["expression"],
        attributes=tuple(stored["attributes"]),
        tracklets=tuple(
            StoredTracklet(
                rles=tuple(tracklet["rles"]),
                frame_scores=np.array(tracklet["frame_scores"], dtype=np.float32),
                prompt=StoredPoint(**tracklet["prompt"]),
                score=tracklet["score"],
            )
            for tracklet in stored["tracklets"]
        ),
        maps=StoredMaps(
            keyframes=tuple(maps["keyframes"]), frame=maps["frame"], video=maps["video"], fused=maps["fused"]
        ),
        points=tuple(StoredPoint(**point) for point in stored["points"]),
        pts=np.array(stored["pts"], dtype=np.float64),
        fps=stored["fps"],
        height=stored["height"],
        width=stored["width"],
        versions=stored["versions"],
    )


def _point(point: PointPrompt) -> StoredPoint:
    return StoredPoint(frame=point.frame, x=point.x, y=point.y, value=point.value)


def _grid(values: torch.Tensor) -> Grid:
    """Three decimals of a map in [0, 1] are plenty for pictures and points."""
    rounded: Grid = np.round(values.double().cpu().numpy(), 3).tolist()
    return rounded
