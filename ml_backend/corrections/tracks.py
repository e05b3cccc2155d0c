"""The box tracks of an annotation: each is one instance, with boxes at keyframes and nothing outside of its life."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.corrections.instances import Instance, identity_of, proposal_notes, unique_names
from ml_backend.corrections.records import DecidedFrame
from ml_backend.label_studio.controls import VideoSide, frame_rate
from ml_backend.label_studio.frame_numbers import rate_beside_pages
from ml_backend.label_studio.region_masks import RegionError, track_boxes
from ml_backend.label_studio.results import ResultItem, region_labels
from ml_backend.language.commands import is_go
from ml_backend.models.geometry import TrackBox

MAX_FRAMES = 50_000
"""Tracks that claim to be longer are refused before anything is allocated for them."""

_SPARE_FRAMES = 1.5  # by which a count of frames may differ from duration times rate


@dataclass(frozen=True)
class Tracks:
    """The box tracks of one side.

    Attributes:
        instances: One for each track, in their order.
        notes: What a person should know of them.
        numbering: How many frames the longest track counts, and how many a second, where it says so.
    """

    instances: tuple[Instance, ...] = ()
    notes: tuple[str, ...] = ()
    numbering: tuple[int, float] | None = None


@dataclass(frozen=True)
class _Numbering:
    """How a track counts frames.

    Attributes:
        count: Frames of the video, by the track; 0 where it does not say.
        rate: Frames a second, by the track; ``None`` where it does not say.
        factor: Frames of the video for each frame that the track counts.
        torn: Whether its count, its duration and its times do not agree.
    """

    count: int
    rate: float | None
    factor: float
    torn: bool = False

    @property
    def total(self) -> int:
        """Frames of the video."""
        return math.ceil(self.count * self.factor - 1e-6)

    def frame(self, number: int) -> int:
        """The decode index of a frame that the track counts from 1; one before the first frame is the first."""
        return max(0, math.floor((number - 1) * self.factor + 1e-6))


def tracked_instances(
    results: Sequence[Mapping[str, Any]],
    side: VideoSide,
    joined: Sequence[tuple[str, str]],
    *,
    pages: int | None,
    stride: int,
    task_data: Mapping[str, Any],
) -> Tracks:
    """The box tracks of an annotation by frame of the video; by page where there are pages.

    Args:
        results: Of the annotation.
        side: The side.
        joined: Pairs of ids of tracks that are one instance.
        pages: How many pages the task has; ``None`` without pages.
        stride: Frames of the video from one page to the next.
        task_data: The task's data.

    Raises:
        RegionError: A track is malformed.
    """
    tracks = [r for r in results if str(r.get("type", "")).lower() == "videorectangle"]
    tracks = [track for track in tracks if track.get("to_name") in (side.name, None)]
    texts, labels, notes = _texts(results, side), _labels(results), proposal_notes(results)
    # Beside pages, keyframes count frames of the video; else Label Studio's numbers, whose frames completion finds.
    rate = side.fps(task_data) if pages is None else rate_beside_pages(side, task_data)
    found: list[tuple[str, str, list[Mapping[str, Any]]]] = []
    remarks: list[str] = []
    numbering: tuple[int, float] | None = None
    for members in _joined(tracks, joined):
        ids = [str(track.get("id")) for track in members]
        label = next((one for track in members for one in region_labels(track)), "")
        label = label or next((labels[number] for number in ids if number in labels), "")
        text = next((texts[number] for number in ids if number in texts), "")
        found.append((label, text, members))
    instances = []
    names = unique_names(f"track {text or label}".rstrip() for label, text, _ in found)
    for (label, text, members), name in zip(found, names, strict=True):
        numbered = [(track, _numbering(track, rate)) for track in members]
        for track, counted in numbered:
            remarks += _remarks(track, counted, name.removeprefix("track "))
            if counted.rate is not None and (numbering is None or counted.count > numbering[0]):
                numbering = counted.count, counted.rate
        ids = [str(track.get("id")) for track in members]
        instances.append(
            Instance(
                name=name,
                label=label,
                regions=frozenset(identity_of(number) for number in ids),
                text=text or None,
                note=next((notes[number] for number in ids if number in notes), None),
                ours=False,
                frames=_decided(numbered, pages, stride),
            )
        )
    return Tracks(tuple(instances), tuple(remarks), numbering)


def _texts(results: Iterable[Mapping[str, Any]], side: VideoSide) -> dict[str, str]:
    items = [item for item in map(ResultItem, results) if item.is_from(side.task.region_text)]
    return {item.id: text for item in items for text in item.texts if text.strip() and not is_go(text)}


def _labels(results: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By id, the labels that stand beside tracks as results of their own."""
    beside = (item for item in map(ResultItem, results) if item.type.lower() == "labels")
    return {item.id: item.labels()[0] for item in beside if item.labels()}


def _joined(
    tracks: Sequence[Mapping[str, Any]], joined: Sequence[tuple[str, str]]
) -> list[list[Mapping[str, Any]]]:
    """The tracks of each instance: those of one id, and those that relations join."""
    names = {str(track.get("id")): str(track.get("id")) for track in tracks}
    for first, second in joined:
        if first in names and second in names:
            old, new = names[second], names[first]
            names = {number: new if name == old else name for number, name in names.items()}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for track in tracks:
        found.setdefault(names[str(track.get("id"))], []).append(track)
    return list(found.values())


def _numbering(track: Mapping[str, Any], rate: float) -> _Numbering:
    """How a track counts; one that counts at another rate than the video's is understood by its times.

    Its count, its duration and the times that Label Studio wrote beside its keyframes tell that rate. Where they do
    not agree, nothing does, and its numbers are taken as they are.

    Args:
        track: The track.
        rate: Frames a second of the video.

    Raises:
        RegionError: Its keyframes cannot be read.
    """
    value = track["value"]
    count, duration = value.get("framesCount"), frame_rate(value.get("duration"))
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return _Numbering(0, None, 1.0)
    if duration is None:
        return _Numbering(count, None, 1.0)
    own = count / duration
    if abs(count - duration * rate) <= _SPARE_FRAMES:
        return _Numbering(count, own, 1.0)
    keys = zip(_numbers(track), value["sequence"], strict=True)
    timed = [(number, time) for number, key in keys if number > 0 and (time := frame_rate(key.get("time")))]
    if any(abs(number - time * own) > _SPARE_FRAMES for number, time in timed):
        return _Numbering(count, own, 1.0, torn=True)
    number, time = max(timed, default=(count, duration))
    if abs(number / time * duration - count) <= 1:
        own = number / time  # more exact than a count, which is rounded
    return _Numbering(count, own, rate / own)


def _numbers(track: Mapping[str, Any]) -> list[int]:
    """The numbers of a track's keyframes.

    Raises:
        RegionError: They cannot be read.
    """
    try:
        return [int(key["frame"]) for key in track["value"]["sequence"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RegionError(f"track {track.get('id')!r} has keyframes that cannot be read") from error


def _remarks(track: Mapping[str, Any], numbering: _Numbering, name: str) -> list[str]:
    remarks = []
    numbers = _numbers(track)
    if numbering.factor != 1.0 and numbering.rate is not None:
        remarks.append(
            f"the track of {name!r} is numbered at {numbering.rate:g} frames a second, the video has "
            f"{numbering.rate * numbering.factor:g}; its frames were found by their times"
        )
    if numbering.torn:
        remarks.append(
            f"the count, the duration and the times of the track of {name!r} do not agree; its frames were found by "
            "their numbers"
        )
    beyond = sum(number > numbering.count for number in numbers) if numbering.count else 0
    if beyond:
        remarks.append(f"{beyond} keyframes of {name!r} lie beyond the video's {numbering.count} frames")
    return remarks


def _decided(
    tracks: Sequence[tuple[Mapping[str, Any], _Numbering]], pages: int | None, stride: int
) -> dict[int, DecidedFrame]:
    """What the tracks of an instance decide: boxes at keyframes, nothing outside of lifespans.

    Frames between keyframes are left to SAM 2, since a straight line between boxes only comes near. Where the
    media are pages, each page counts whose frame, or one nearer to it than to the next page, is a keyframe.
    """
    boxes: dict[int, list[TrackBox]] = {}
    shown: set[int] = set()
    total = 0
    for track, numbering in tracks:
        positions, keyframes = _positions(track, numbering)
        if pages is not None:
            keyframes = {round(frame / stride) for frame in keyframes}
            positions = positions[: pages * stride : stride]
        for index, position in enumerate(positions):
            if not np.isnan(position).any():
                shown.add(index)
                if index in keyframes:
                    x, y, width, height, rotation = position.tolist()
                    boxes.setdefault(index, []).append((x, y, width, height, rotation))
        total = max(total, len(positions))
    decided = {index: DecidedFrame(rle=None, boxes=tuple(drawn)) for index, drawn in boxes.items()}
    hidden = {index: DecidedFrame(rle=None) for index in range(total) if index not in shown}
    return dict(sorted((decided | hidden).items()))


def _positions(track: Mapping[str, Any], numbering: _Numbering) -> tuple[NDArray[np.float64], set[int]]:
    """(T, 5) boxes of a track by decode index, and the indices of its keyframes.

    Raises:
        RegionError: It is malformed.
    """
    numbers = _numbers(track)
    length = max(numbering.count, max(numbers, default=0))
    if length > MAX_FRAMES:
        raise RegionError(f"track {track.get('id')!r} has {length} frames; at most {MAX_FRAMES} are read")
    length = numbering.count or length
    boxes = track_boxes(track, length)
    if not np.isfinite(boxes[~np.isnan(boxes).any(axis=1)]).all():
        raise RegionError(f"track {track.get('id')!r} has boxes that are not numbers")
    keyframes = {numbering.frame(number): max(0, number - 1) for number in numbers if number <= length}
    if numbering.factor == 1.0:
        return boxes, set(keyframes)
    counted = [min(round(index / numbering.factor), length - 1) for index in range(numbering.total)]
    for (
        index,
        number,
    ) in keyframes.items():  # the box at a keyframe is its own, wherever rounding put the others
        counted[index] = number
    return boxes[counted], set(keyframes)
