"""A proposal on disk.

``save_proposal`` writes into a folder:

``proposal.json``
    Everything but the maps, as :class:`ProposalRecord` documents it. Written last, so that its presence says
    that the rest is complete.
``maps.safetensors``
    The grounding maps: ``fused``, and ``frame`` and ``video`` where they were used.
``masks/00000.png`` ...
    The best tracklet, one 8-bit picture a frame (0 background, 255 object), numbered from 0. Where the expression
    means several objects, each has its number from 1 in place of 255. Absent when nothing was found, or presence is
    refused.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from safetensors import SafetensorError

from steerseg.errors import SteerSegError
from steerseg.grounding import GroundingMaps
from steerseg.masks import RLE, decode_rle, mask_box
from steerseg.output.drawing import draw_tracklets
from steerseg.output.figure import save_maps
from steerseg.points import PointPrompt
from steerseg.presence.localisation import Positions
from steerseg.presence.signals import Presence
from steerseg.proposal import Proposal
from steerseg.tracking import Tracklet
from steerseg.verification import Opinion
from steerseg.video import Video, write_video

SCHEMA = 1
"""Version of ``proposal.json``; raised when a reader of the last one would misunderstand."""

_MASK_NAME = re.compile(r"\d{5,}\.png")


def save_proposal(proposal: Proposal, directory: str | Path, *, video: Video | None = None) -> None:
    """Write a proposal into a folder, which is made when missing; an earlier proposal there is replaced.

    Args:
        proposal: The proposal.
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
        if proposal.shown:
            _write_masks([proposal.tracklets[rank] for rank in proposal.shown], folder / "masks")
        if video is not None:
            if proposal.shown:
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
        return ProposalRecord.model_validate(data).proposal(maps)
    except FileNotFoundError as error:
        raise SteerSegError(
            f"{error.filename} does not exist; expected a folder that `Proposal.save` or "
            "`steerseg segment -o` wrote."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SteerSegError(f"{folder} holds a damaged proposal ({error!r}); make it again.") from error


class PointRecord(BaseModel):
    """A point prompt.

    Attributes:
        frame: Index of the frame.
        x: Horizontal position in [0, 1].
        y: Vertical position in [0, 1].
        value: Fused map value in [0, 1].
    """

    frame: int
    x: float
    y: float
    value: float

    @classmethod
    def of(cls, point: PointPrompt) -> PointRecord:
        """The record of a point prompt."""
        return cls(frame=point.frame, x=point.x, y=point.y, value=point.value)

    def prompt(self) -> PointPrompt:
        """The point prompt of the record."""
        return PointPrompt(self.frame, self.x, self.y, self.value)


class MaskRecord(BaseModel):
    """A mask in COCO's compressed run-length encoding.

    Attributes:
        size: Height and width in pixels.
        counts: The run lengths.
    """

    size: list[int]
    counts: str


class TrackletRecord(BaseModel):
    """One ranked tracklet.

    Attributes:
        rank: From 1.
        score: In [-1, 1].
        prompt: The point prompt that it began with.
        boxes: One a frame, [x, y, width, height] in pixels, null where the object is not visible.
        scores: One a frame, probability in [0, 1] that the object is there.
        masks: One a frame.
        opinion: What the LVLM thinks of it; left out where it was not asked, or said nothing.
    """

    rank: int
    score: float
    prompt: PointRecord
    boxes: list[tuple[float, float, float, float] | None]
    scores: list[float]
    masks: list[MaskRecord]
    opinion: Opinion | None = None

    @classmethod
    def of(cls, rank: int, tracklet: Tracklet) -> TrackletRecord:
        """The record of a tracklet."""
        return cls(
            rank=rank,
            score=tracklet.score,
            prompt=PointRecord.of(tracklet.prompt),
            boxes=[mask_box(decode_rle(rle)) for rle in tracklet.rles],
            scores=[round(float(score), 6) for score in tracklet.frame_scores],
            masks=[MaskRecord(**rle) for rle in tracklet.rles],
            **({} if tracklet.opinion is None else {"opinion": tracklet.opinion}),
        )

    def tracklet(self) -> Tracklet:
        """The tracklet of the record."""
        return Tracklet(
            rles=tuple(RLE(size=mask.size, counts=mask.counts) for mask in self.masks),
            frame_scores=np.array(self.scores, dtype=np.float32),
            prompt=self.prompt.prompt(),
            score=self.score,
            opinion=self.opinion,
        )


class VideoRecord(BaseModel):
    """The video of a proposal.

    Attributes:
        frames: Number of frames.
        width: In pixels.
        height: In pixels.
        fps: Frames a second.
        pts: Seconds, one a frame.
        source: Origin of the video; absent where the video is not known.
        digest: Of its content; absent likewise.
        stride: Of its frames in the file; absent likewise.
    """

    frames: int
    width: int
    height: int
    fps: float
    pts: list[float]
    source: str = ""
    digest: str = ""
    stride: int = 1


class ProposalRecord(BaseModel):
    """The content of ``proposal.json``.

    Attributes:
        schema_version: Named ``schema`` in the file.
        expression: The annotator's text.
        attributes: Phrases of the reasoning step; empty without it.
        versions: Name -> version of packages, preset, models and soft prompts.
        video: The video.
        keyframes: Indices of the frames that the LVLM sees.
        points: Every point prompt.
        tracklets: Best first.
        read_as: What the models read in the expression's place, in plain wording and by a glossary; left out where that
            is the expression.
        presence: How likely the expression is of anything in the video, in [0, 1]; left out where it was not judged.
        confidence: How likely the best tracklet is what the expression means, in [0, 1]; left out where that is not
            known.
        refused: Whether that is so unlikely that no mask is written; left out otherwise.
        several: Ranks from 1 of the tracklets that an expression of several objects means; left out otherwise.
        positions: Where the LVLM says that the object is, as in :class:`steerseg.presence.localisation.Positions`;
            left out where it does not.
        note: Why point prompts took the place of concepts, or which concepts are left out; left out otherwise.
    """

    schema_version: int = Field(alias="schema")
    expression: str
    attributes: list[str]
    versions: dict[str, str]
    video: VideoRecord
    keyframes: list[int]
    points: list[PointRecord]
    tracklets: list[TrackletRecord]
    read_as: str = ""
    presence: float | None = None
    confidence: float | None = None
    refused: bool = False
    several: list[int] = []
    positions: list[tuple[float, float] | None] | None = None
    note: str = ""

    @classmethod
    def of(cls, proposal: Proposal, video: Video | None = None) -> ProposalRecord:
        """The record of a proposal; ``video`` is described where it is known."""
        described = VideoRecord(
            frames=len(proposal.pts),
            width=proposal.width,
            height=proposal.height,
            fps=proposal.fps,
            pts=proposal.pts.tolist(),
        )
        if video is not None:
            known = {"source": video.source, "digest": video.digest, "stride": video.stride}
            described = described.model_copy(update=known)
        record = cls(
            schema=SCHEMA,
            expression=proposal.expression,
            attributes=list(proposal.attributes),
            versions=dict(proposal.versions),
            video=described,
            keyframes=list(proposal.maps.keyframes),
            points=[PointRecord.of(point) for point in proposal.points],
            tracklets=[TrackletRecord.of(rank, one) for rank, one in enumerate(proposal.tracklets, start=1)],
        )
        told: dict[str, Any] = {"read_as": proposal.read_as} if proposal.read_as else {}
        if proposal.presence.value is not None:
            told["presence"] = round(proposal.presence.value, 4)
        if proposal.presence.confidence is not None:
            told["confidence"] = round(proposal.presence.confidence, 4)
        if proposal.presence.refused:
            told["refused"] = True
        if proposal.several:
            told["several"] = [rank + 1 for rank in proposal.several]
        if proposal.positions is not None:
            told["positions"] = list(proposal.positions.centres)
        if proposal.note:
            told["note"] = proposal.note
        return record.model_copy(update=told) if told else record

    def proposal(self, maps: Mapping[str, torch.Tensor]) -> Proposal:
        """The proposal of the record, with the maps of its ``maps.safetensors``."""
        return Proposal(
            expression=self.expression,
            attributes=tuple(self.attributes),
            tracklets=tuple(record.tracklet() for record in self.tracklets),
            maps=GroundingMaps(
                keyframes=tuple(self.keyframes),
                frame=maps.get("frame"),
                video=maps.get("video"),
                fused=maps["fused"],
            ),
            points=tuple(record.prompt() for record in self.points),
            pts=np.array(self.video.pts, dtype=np.float64),
            fps=self.video.fps,
            height=self.video.height,
            width=self.video.width,
            versions=self.versions,
            read_as=self.read_as,
            presence=Presence(self.presence, self.refused, confidence=self.confidence),
            several=tuple(rank - 1 for rank in self.several),
            positions=None if self.positions is None else Positions(tuple(self.positions)),
            note=self.note,
        )


def proposal_to_json(proposal: Proposal, video: Video | None = None) -> dict[str, Any]:
    """The content of ``proposal.json`` in JSON types; see :class:`ProposalRecord`."""
    return ProposalRecord.of(proposal, video).model_dump(mode="json", by_alias=True, exclude_unset=True)


def _write_masks(instances: Sequence[Tracklet], folder: Path) -> None:
    """Write the masks of the instances, one picture a frame: 255 for one object, else the number of each."""
    folder.mkdir(exist_ok=True)
    values = [255] if len(instances) == 1 else list(range(1, len(instances) + 1))
    for index in range(len(instances[0].rles)):
        picture = np.zeros(instances[0].rles[index]["size"], dtype=np.uint8)
        for value, tracklet in reversed(list(zip(values, instances, strict=True))):
            picture[decode_rle(tracklet.rles[index])] = value
        Image.fromarray(picture).save(folder / f"{index:05d}.png")


def _overlay(proposal: Proposal, video: Video) -> Iterator[NDArray[np.uint8]]:
    """The frames with the tracklets drawn on them."""
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
