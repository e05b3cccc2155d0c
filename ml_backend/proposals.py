"""Proposals as the server keeps them: plain data without model libraries, and gzipped JSON files of it."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from ml_backend.database.errors import StoreError
from ml_backend.database.tables import ProposalKey
from steerseg.errors import ArtefactError
from steerseg.masks import RLE
from steerseg.runtime.artefacts import write_bytes
from steerseg.verification import Opinion

FORMAT = 1
Grid = list[list[list[float]]]
FrameScores = Annotated[
    NDArray[np.float32],
    PlainValidator(lambda scores: np.asarray(scores, dtype=np.float32)),
    PlainSerializer(lambda scores: [round(float(score), 5) for score in scores]),
]
Times = Annotated[
    NDArray[np.float64],
    PlainValidator(lambda times: np.asarray(times, dtype=np.float64)),
    PlainSerializer(lambda times: times.tolist()),
]


@dataclass(frozen=True)
class StoredPoint:
    """A point prompt; see :class:`steerseg.points.PointPrompt`."""

    frame: int
    x: float
    y: float
    value: float


@dataclass(frozen=True)
class StoredBothWays:
    """Whether an object is the same in both directions; see :class:`steerseg.tracking.both_ways.BothWays`."""

    frames: tuple[int, ...]
    forwards: FrameScores = field(repr=False)
    backwards: FrameScores = field(repr=False)


@dataclass(frozen=True)
class StoredTracklet:
    """A tracklet; see :class:`steerseg.tracking.tracklets.Tracklet`.

    Attributes:
        rles: One encoded (H, W) mask per frame.
        frame_scores: (T,) float32 in [0, 1].
        prompt: The point that started it.
        score: Rank score in [-1, 1].
        opinion: What the language model thinks of it; ``None`` where it was not asked, or said nothing.
        both_ways: How it was tracked anew in both directions; ``None`` where it was not.
    """

    rles: tuple[RLE, ...] = field(repr=False)
    frame_scores: FrameScores = field(repr=False)
    prompt: StoredPoint
    score: float
    opinion: Opinion | None = None
    both_ways: StoredBothWays | None = field(default=None, repr=False)


@dataclass(frozen=True)
class StoredMaps:
    """Grounding maps as nested lists, rounded; see :class:`steerseg.grounding.GroundingMaps`."""

    keyframes: tuple[int, ...]
    frame: Grid | None
    video: Grid | None
    fused: Grid


@dataclass(frozen=True)
class StoredProposal:
    """A proposal; see :class:`steerseg.proposal.Proposal`.

    Attributes:
        tracklets: Best first; empty where there is none.
        pts: (T,) presentation times in seconds.
        read_as: What the models read in the expression's place, by the project's glossary; empty where that is the
            expression.
        presence: How likely the expression is of anything in the video, in [0, 1]; ``None`` where the preset is not
            calibrated, or it was not judged.
        refused: Whether that is so unlikely that nothing is shown; the tracklets are there to choose from.
        found: What the language model calls the best tracklet; empty where it was not asked.
        understood: Whether the models know all words of the expression, and it denies nothing.
        confidence: How likely the best tracklet is what the expression means, in [0, 1]; ``None`` where the preset is
            not calibrated for it.
        note: Why point prompts took the place of concepts, which concepts are left out, or on which keyframe that was
            added the object was found; empty otherwise.
    """

    expression: str
    attributes: tuple[str, ...]
    tracklets: tuple[StoredTracklet, ...]
    maps: StoredMaps = field(repr=False)
    points: tuple[StoredPoint, ...] = field(repr=False)
    pts: Times = field(repr=False)
    fps: float
    height: int
    width: int
    versions: dict[str, str]
    read_as: str = ""
    presence: float | None = None
    refused: bool = False
    found: str = ""
    understood: bool = True
    confidence: float | None = None
    note: str = ""

    def certainty(self, rank: int = 0) -> float:
        """How sure a tracklet is, in [0, 1]: the best by its confidence, if there is one, and no other surer than that.

        Without a confidence it is the rank score; a correlation below 0 is no agreement.

        Args:
            rank: Of the tracklet.
        """
        score = min(max(self.tracklets[rank].score, 0.0), 1.0)
        if self.confidence is None:
            return score
        return self.confidence if rank == 0 else min(score, self.confidence)

    @property
    def standing(self) -> tuple[float | None, float | None]:
        """How sure the best offered tracklet is, and its margin over the next; ``None`` where there is no such thing.

        A confidence has no margin, since it allows for the next candidate already.
        """
        scores = [tracklet.score for tracklet in self.offered]
        if scores and self.confidence is not None:
            return self.confidence, None
        return scores[0] if scores else None, scores[0] - scores[1] if len(scores) > 1 else None

    @property
    def offered(self) -> tuple[StoredTracklet, ...]:
        """The tracklets, the best first; none where presence is refused, so that none was shown."""
        return () if self.refused else self.tracklets


_ADAPTER = TypeAdapter(StoredProposal)


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
        stored = {**_ADAPTER.dump_python(proposal, mode="json"), "format": FORMAT}
        content = gzip.compress(json.dumps(stored, separators=(",", ":")).encode(), 6, mtime=0)
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
            stored = json.loads(gzip.decompress((self._root / path).read_bytes()))
            if stored["format"] != FORMAT:
                raise ValueError(f"format {stored['format']}, expected {FORMAT}")
            return _ADAPTER.validate_python(stored)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the stored proposal {path} cannot be read ({type(error).__name__}); it is made anew"
            ) from error
