"""What a proposal looks like on disk.

``save_proposal`` writes into a folder:

``proposal.json``
    Everything but the maps, documented at :func:`proposal_to_json`. Written last, so that its presence says
    that the rest is complete.
``maps.safetensors``
    The grounding maps: ``fused``, and ``frame`` and ``video`` where they were used.
``masks/00000.png`` ...
    The best tracklet, one 8-bit picture a frame (0 background, 255 object), numbered from 0. Absent when
    nothing was found.
``overlay.mp4``
    The video with the best tracklet tinted and the alternatives outlined; H.264, plays in a browser, with the
    video's own timing.
``maps.png``
    Keyframes with both grounding maps, points and the winner.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from steerseg.errors import SteerSegError
from steerseg.grounding import GroundingMaps
from steerseg.masks import RLE, decode_rle, mask_box
from steerseg.output.drawing import draw_tracklets
from steerseg.output.figure import save_maps
from steerseg.pipeline import Proposal
from steerseg.points import PointPrompt
from steerseg.tracking import Tracklet
from steerseg.video import Video, write_video

SCHEMA = 1
"""Version of ``proposal.json``; raised when a reader of the last one would misunderstand."""

_MASK_NAME = re.compile(r"\d{5,}\.png")


def save_proposal(proposal: Proposal, directory: str | Path, *, video: Video | None = None) -> None:
    """Write a proposal into a folder, which is made when missing; an earlier proposal there is replaced.

    Args:
        proposal: What to write.
        directory: The folder.
        video: The video for the pictures; the proposal's own when left out. Without either, ``overlay.mp4``
            and ``maps.png`` are not written.

    Raises:
        SteerSegError: The folder cannot be written.
        ValueError: The video is not the one of the proposal (another length or size).
    """
    video = video or proposal.video
    if video is not None and video.frames.shape[:3] != (len(proposal.pts), proposal.height, proposal.width):
        raise ValueError(
            f"the video has shape {video.frames.shape[:3]}, the proposal was made for "
            f"{(len(proposal.pts), proposal.height, proposal.width)}"
        )
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_earlier(folder)
        if proposal.tracklets:
            _write_masks(proposal.best, folder / "masks")
        if video is not None:
            if proposal.tracklets:
                write_video(folder / "overlay.mp4", _overlay(proposal, video), video.fps, pts=video.pts)
            save_maps(proposal, video, folder / "maps.png")
        maps = {"fused": proposal.maps.fused, "frame": proposal.maps.frame, "video": proposal.maps.video}
        kept = {name: grid.contiguous() for name, grid in maps.items() if grid is not None}
        (folder / "maps.safetensors").write_bytes(safetensors.torch.save(kept))
        text = json.dumps(proposal_to_json(proposal, video), ensure_ascii=False, allow_nan=False)
        partial = folder / "proposal.json.part"
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, folder / "proposal.json")
    except OSError as error:
        raise SteerSegError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another folder or free "
            "some space."
        ) from error


def load_proposal(directory: str | Path) -> Proposal:
    """Read back what :func:`save_proposal` wrote. The video itself is not part of it.

    Raises:
        SteerSegError: The folder holds no complete proposal of a known schema.
    """
    folder = Path(directory)
    try:
        data = json.loads((folder / "proposal.json").read_text(encoding="utf-8"))
        maps = safetensors.torch.load_file(folder / "maps.safetensors")
        if data["schema"] != SCHEMA:
            raise SteerSegError(
                f"{folder / 'proposal.json'} has schema {data['schema']}, this version reads {SCHEMA}; make "
                "the proposal again."
            )
        return _proposal_from_json(data, maps)
    except FileNotFoundError as error:
        raise SteerSegError(
            f"{error.filename} does not exist; expected a folder that `Proposal.save` or "
            "`steerseg segment -o` wrote."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SteerSegError(f"{folder} holds a damaged proposal ({error!r}); make it again.") from error


def proposal_to_json(proposal: Proposal, video: Video | None = None) -> dict[str, Any]:
    """The content of ``proposal.json``.

    - ``schema``: 1
    - ``expression``: what was asked for
    - ``attributes``: phrases that the reasoning step named; empty without it
    - ``versions``: name -> version of everything that took part
    - ``video``: ``frames`` (count), ``width``, ``height`` (pixels), ``fps``, ``pts`` (seconds, one a frame);
      ``source``, ``digest`` and ``stride`` where the video is known
    - ``keyframes``: indices of the frames that the language model saw
    - ``points``: every point prompt tried: ``frame``, ``x``, ``y`` and ``value``, the last three in [0, 1]
    - ``tracklets``, best first:

      - ``rank`` from 1, ``score`` in [-1, 1], ``prompt`` (a point)
      - ``boxes``: one a frame, [x, y, width, height] in pixels, null where not visible
      - ``scores``: one a frame, probability in [0, 1] that the object is there
      - ``masks``: one a frame, COCO's compressed RLE: ``size`` [height, width] and ``counts``
    """
    described: dict[str, Any] = {
        "frames": len(proposal.pts),
        "width": proposal.width,
        "height": proposal.height,
        "fps": proposal.fps,
        "pts": proposal.pts.tolist(),
    }
    if video is not None:
        described |= {"source": video.source, "digest": video.digest, "stride": video.stride}
    return {
        "schema": SCHEMA,
        "expression": proposal.expression,
        "attributes": list(proposal.attributes),
        "versions": dict(proposal.versions),
        "video": described,
        "keyframes": list(proposal.maps.keyframes),
        "points": [_point_to_json(point) for point in proposal.points],
        "tracklets": [
            {
                "rank": rank,
                "score": tracklet.score,
                "prompt": _point_to_json(tracklet.prompt),
                "boxes": [mask_box(decode_rle(rle)) for rle in tracklet.rles],
                "scores": [round(float(score), 6) for score in tracklet.frame_scores],
                "masks": list(tracklet.rles),
            }
            for rank, tracklet in enumerate(proposal.tracklets, start=1)
        ],
    }


def _proposal_from_json(data: dict[str, Any], maps: dict[str, Any]) -> Proposal:
    video = data["video"]
    return Proposal(
        expression=data["expression"],
        attributes=tuple(data["attributes"]),
        tracklets=tuple(
            Tracklet(
                rles=tuple(RLE(size=rle["size"], counts=rle["counts"]) for rle in item["masks"]),
                frame_scores=np.array(item["scores"], dtype=np.float32),
                prompt=PointPrompt(**item["prompt"]),
                score=item["score"],
            )
            for item in data["tracklets"]
        ),
        maps=GroundingMaps(
            keyframes=tuple(data["keyframes"]),
            frame=maps.get("frame"),
            video=maps.get("video"),
            fused=maps["fused"],
        ),
        points=tuple(PointPrompt(**point) for point in data["points"]),
        pts=np.array(video["pts"], dtype=np.float64),
        fps=video["fps"],
        height=video["height"],
        width=video["width"],
        versions=data["versions"],
    )


def _point_to_json(point: PointPrompt) -> dict[str, float]:
    return {"frame": point.frame, "x": point.x, "y": point.y, "value": point.value}


def _write_masks(tracklet: Tracklet, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for index, rle in enumerate(tracklet.rles):
        Image.fromarray(decode_rle(rle).astype(np.uint8) * 255).save(folder / f"{index:05d}.png")


def _overlay(proposal: Proposal, video: Video) -> Iterator[NDArray[np.uint8]]:
    for index, frame in enumerate(video.frames):
        yield draw_tracklets(frame, [decode_rle(tracklet.rles[index]) for tracklet in proposal.tracklets])


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier proposal left, so that the two never mix; nothing else in the folder."""
    for name in ("proposal.json", "maps.safetensors", "overlay.mp4", "maps.png"):
        (folder / name).unlink(missing_ok=True)
    if (folder / "masks").is_dir():
        for path in (folder / "masks").iterdir():
            if _MASK_NAME.fullmatch(path.name):
                path.unlink()
