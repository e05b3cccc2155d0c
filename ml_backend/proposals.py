"""Proposals as files: gzipped JSON, one per (content, expression, version), written atomically."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml_backend.store import ProposalKey, StoreError
from steerseg.grounding import GroundingMaps
from steerseg.pipeline import Proposal
from steerseg.points import PointPrompt
from steerseg.tracking import Tracklet

FORMAT = 1


class ProposalFiles:
    """The proposals below one folder.

    Args:
        data_dir: The backend's data folder; proposals lie in ``proposals/`` below it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir

    def save(self, key: ProposalKey, proposal: Proposal) -> str:
        """Write a proposal and return its path relative to the data folder. It is on disk when this returns.

        Raises:
            StoreError: The disk is full or not writable.
        """
        name = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()
        relative = Path("proposals") / name[:2] / f"{name}.json.gz"
        content = gzip.compress(json.dumps(_to_json(proposal), separators=(",", ":")).encode(), 6, mtime=0)
        target = self._root / relative
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(target, content)
        except OSError as error:
            raise StoreError(
                f"the proposal cannot be written to {target.parent}: {error.strerror}; "
                "check the free space and who owns the data folder (STEERSEG_DATA_DIR)"
            ) from error
        return relative.as_posix()

    def load(self, path: str) -> Proposal:
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


def _write_atomically(target: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _to_json(proposal: Proposal) -> dict[str, Any]:
    maps = proposal.maps
    return {
        "format": FORMAT,
        "expression": proposal.expression,
        "attributes": list(proposal.attributes),
        "tracklets": [
            {
                "score": tracklet.score,
                "prompt": asdict(tracklet.prompt),
                "frame_scores": [round(float(score), 5) for score in tracklet.frame_scores],
                "rles": list(tracklet.rles),
            }
            for tracklet in proposal.tracklets
        ],
        "maps": {
            "keyframes": list(maps.keyframes),
            "frame": _grid(maps.frame),
            "video": _grid(maps.video),
            "fused": _grid(maps.fused),
        },
        "points": [asdict(point) for point in proposal.points],
        "pts": [float(time) for time in proposal.pts],
        "fps": proposal.fps,
        "height": proposal.height,
        "width": proposal.width,
        "versions": proposal.versions,
    }


def _from_json(stored: dict[str, Any]) -> Proposal:
    if stored["format"] != FORMAT:
        raise ValueError(f"format {stored['format']}, expected {FORMAT}")
    maps = stored["maps"]
    return Proposal(
        expression=stored["expression"],
        attributes=tuple(stored["attributes"]),
        tracklets=tuple(
            Tracklet(
                rles=tuple(tracklet["rles"]),
                frame_scores=np.array(tracklet["frame_scores"], dtype=np.float32),
                prompt=PointPrompt(**tracklet["prompt"]),
                score=tracklet["score"],
            )
            for tracklet in stored["tracklets"]
        ),
        maps=GroundingMaps(
            keyframes=tuple(maps["keyframes"]),
            frame=_tensor(maps["frame"]),
            video=_tensor(maps["video"]),
            fused=torch.tensor(maps["fused"], dtype=torch.float32),
        ),
        points=tuple(PointPrompt(**point) for point in stored["points"]),
        pts=np.array(stored["pts"], dtype=np.float64),
        fps=stored["fps"],
        height=stored["height"],
        width=stored["width"],
        versions=stored["versions"],
    )


def _grid(values: torch.Tensor | None) -> Any:
    """Nested lists; three decimals of a map in [0, 1] are plenty for pictures and points."""
    return None if values is None else np.round(values.double().cpu().numpy(), 3).tolist()


def _tensor(values: Any) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)
