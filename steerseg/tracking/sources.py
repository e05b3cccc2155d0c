"""Where the candidates of a proposal come from: point prompts of the maps, or SAM 3's concepts (our choice)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from steerseg.config import PipelineConfig
from steerseg.errors import ModelError
from steerseg.masks import iou
from steerseg.points import PointPrompt
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.packed_masks import mask_at_size
from steerseg.tracking.tracker import Tracker
from steerseg.tracking.tracklets import Candidate, Prompt, Propagation, StageProgress, TrackedFrames

if TYPE_CHECKING:  # with the library's SAM 3, which few presets use
    from steerseg.segmenters.concepts import ConceptSegmenter, ConceptTrack

log = logging.getLogger(__name__)

_BY_CONCEPTS = 0.9  # of the stage; the segmenter's memories are the rest


@dataclass(frozen=True)
class Candidates:
    """Different objects, tracked over the keyframes but not yet ranked.

    Attributes:
        points: Every point prompt.
        on_keyframes: The candidates' masks on the keyframes; without candidates where there are none.
        note: Why point prompts took the place of concepts, or which concepts are left out; empty otherwise.
    """

    points: tuple[PointPrompt, ...]
    on_keyframes: Propagation
    note: str = ""

    def __len__(self) -> int:
        return len(self.on_keyframes.candidates)


def load_concepts(
    source: str, device: torch.device, dtype: torch.dtype
) -> tuple[ConceptSegmenter | None, str]:
    """SAM 3 for concepts, or the reason why it cannot be used, which is logged.

    Args:
        source: Hub id or folder.
        device: Where to run.
        dtype: Of weights and computation.
    """
    from steerseg.segmenters.concepts import ConceptSegmenter

    try:
        return ConceptSegmenter.from_pretrained(source, device, dtype), ""
    except ModelError as error:
        reason = f"candidates come from point prompts, since SAM 3's concepts are off: {error}"
        log.warning("%s", reason)
        return None, reason


class CandidateFinder:
    """Finds candidates on the keyframes.

    Args:
        tracker: Tracks what points are on, and carries on what SAM 3 finds.
        concepts: SAM 3; ``None`` where it is not loaded.
    """

    def __init__(self, tracker: Tracker, concepts: ConceptSegmenter | None = None) -> None:
        self._tracker = tracker
        self.concepts = concepts

    def find(
        self,
        encoded: EncodedVideo,
        points: Sequence[PointPrompt],
        keyframes: Sequence[int],
        phrases: Sequence[str],
        config: PipelineConfig,
        progress: StageProgress,
    ) -> Candidates:
        """The different objects that phrases name or points are on, as ``config.candidates`` says.

        Args:
            encoded: The video.
            points: The point prompts.
            keyframes: Where candidates are tracked.
            phrases: Noun phrases for SAM 3.
            config: ``candidates``, ``duplicate_iou`` and what point prompts take.
            progress: Told of each encoded batch and each tracked frame.
        """
        objects: Sequence[Candidate] = ()
        note = ""
        if config.candidates == "concepts":
            objects, note = self._by_concepts(encoded, keyframes, phrases, config, progress)
            note = note if objects else f"Candidates come from point prompts: {note}."
        if not objects:
            objects = self._tracker.candidates(
                encoded, points, config, keyframes=keyframes, progress=progress
            )
        on_keyframes = self._tracker.propagate(encoded, objects, frames=keyframes)
        return Candidates(tuple(points), on_keyframes, note)

    def _by_concepts(
        self,
        encoded: EncodedVideo,
        keyframes: Sequence[int],
        phrases: Sequence[str],
        config: PipelineConfig,
        progress: StageProgress,
    ) -> tuple[list[Candidate], str]:
        """What SAM 3 finds, and what a person has to know of it: without objects, the reason why there are none."""
        from steerseg.segmenters.concepts import MOST_OBJECTS

        if self.concepts is None:
            return [], "SAM 3 is not there"
        read = [phrase for phrase in phrases if self.concepts.can_read(phrase)]
        if not read:
            return [], "the expression has no noun phrase that SAM 3 reads"
        frames = tuple(sorted(set(keyframes)))
        tracks = self.concepts.track(
            encoded.frames[list(frames)], read, lambda fraction: progress(_BY_CONCEPTS * fraction)
        )
        different = without_duplicates(tracks, config.duplicate_iou)
        objects = [each for track in different if (each := self._start(encoded, frames, track)) is not None]
        progress(1.0)
        if not objects:
            return [], f"SAM 3 finds no {' or '.join(f'“{phrase}”' for phrase in read)} on the keyframes"
        left_out = [f"“{phrase}” is too long for SAM 3." for phrase in phrases if phrase not in read]
        if len(tracks) >= MOST_OBJECTS:
            left_out.append(f"SAM 3 finds {MOST_OBJECTS} objects, and looks for no more.")
        return objects, " ".join(left_out)

    def _start(self, encoded: EncodedVideo, frames: tuple[int, ...], track: ConceptTrack) -> Candidate | None:
        """The candidate that goes on from a track, from the keyframe on which it is surest; ``None`` without a mask."""
        for index in sorted(range(len(frames)), key=lambda index: (-track.presence[index], index)):
            mask = mask_at_size(track.logits[index], encoded.height, encoded.width)
            if mask.any():
                started = self._tracker.start(encoded, [Prompt(frames[index], mask=mask)])
                tracked = TrackedFrames(frames, track.logits, track.presence)
                return replace(started, score=track.score, tracked=tracked)
        return None


def without_duplicates(tracks: Iterable[ConceptTrack], limit: float) -> list[ConceptTrack]:
    """Best first, without tracks that overlap a better one by more than ``limit`` over all frames together."""
    kept: list[tuple[ConceptTrack, torch.Tensor]] = []
    for track in sorted(tracks, key=lambda track: -track.score):
        masks = track.logits > 0
        if all(iou(masks.numpy(), other.numpy()) <= limit for _, other in kept):
            kept.append((track, masks))
    return [track for track, _ in kept]
