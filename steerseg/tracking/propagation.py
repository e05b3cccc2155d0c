"""Candidates tracked forwards and backwards in time, as batches over any segmenter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerseg.segmenters.base import AttendedMemories, Segmenter
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.frame_encoder import FrameEncoder, Lookahead
from steerseg.tracking.host_transfer import HostTransfer, MaskSink
from steerseg.tracking.memory import MemoryBank, Path
from steerseg.tracking.tracklets import Candidate, StageProgress, TrackBuilder, TrackedFrame

_MAX_ROWS = 32  # paths of one batch


@dataclass(frozen=True)
class _Step:
    """One step of a batch.

    Attributes:
        index: On the paths.
        attended: The memories that it attends to.
        frames: The frame of each path.
        distances: (P,) float32 distances of the object pointers, on the device.
    """

    index: int
    attended: AttendedMemories
    frames: list[int]
    distances: Tensor


class Propagator:
    """Tracks candidates as batches; only memories that can still be attended to are kept.

    Args:
        segmenter: Computes the steps.
        encoder: Provides features of frames.

    Attributes:
        in_blocks: Whether a GPU's masks come to the host in blocks; each one at once where not.
    """

    def __init__(self, segmenter: Segmenter, encoder: FrameEncoder) -> None:
        self._segmenter = segmenter
        self._encoder = encoder
        self.in_blocks = True

    def tracked(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        frames: tuple[int, ...],
        progress: StageProgress | None,
    ) -> list[Candidate]:
        """The candidates with their tracks over ``frames``; tracks that are there already are kept."""
        builders = {
            owner: TrackBuilder(frames)
            for owner, candidate in enumerate(candidates)
            if candidate.tracked is None or candidate.tracked.frames != frames
        }
        self.run(encoded, candidates, builders, frames, progress)
        return [
            replace(candidate, tracked=builders[owner].track()) if owner in builders else candidate
            for owner, candidate in enumerate(candidates)
        ]

    def run(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        sinks: Mapping[int, MaskSink],
        frames: tuple[int, ...],
        progress: StageProgress | None,
    ) -> None:
        """Track the candidates that have a sink over ``frames``, and over their prompted frames.

        Args:
            encoded: The video.
            candidates: All candidates.
            sinks: Receivers of the masks, by index of the candidate.
            frames: Where to track, rising.
            progress: Told of each step.
        """
        groups: dict[tuple[int, ...], list[Path]] = {}
        for owner in sinks:
            for path in paths_of(owner, candidates[owner], frames):
                # Paths with prompts at the same indices can share one memory bank.
                groups.setdefault(tuple(path.memories), []).append(path)
        batches = [
            group[start : start + _MAX_ROWS]
            for group in groups.values()
            for start in range(0, len(group), _MAX_ROWS)
        ]
        steps = sum(max(len(path.frames) for path in batch) for batch in batches)
        done = 0
        for batch in batches:
            for _ in self._advance(encoded, batch, sinks, num_frames=len(frames)):
                done += 1
                if progress is not None:
                    progress(done / steps)

    @torch.inference_mode()
    def _advance(
        self, encoded: EncodedVideo, paths: list[Path], sinks: Mapping[int, MaskSink], num_frames: int
    ) -> Iterator[None]:
        """Step along all paths; yields after every step.

        Indices are counted from each path's own start. So paths that start on different frames, or run in different
        directions, share one batch: a segmenter only knows differences of time. Longer paths come first, and the
        batch shrinks from its end as paths end.
        """
        segmenter = self._segmenter
        paths = sorted(paths, key=lambda path: -len(path.frames))
        bank = MemoryBank(paths, segmenter.memory_reach)
        steps = range(len(paths[0].frames))
        attended = [segmenter.attended_memories(index, bank.prompted, num_frames) for index in steps]
        distances = self._distances(attended)
        blocks = {} if self.in_blocks and segmenter.device.type == "cuda" else {"block_bytes": 0}
        with Lookahead(self._encoder, encoded) as ahead, HostTransfer(sinks, **blocks) as transfer:
            for index, chosen in enumerate(attended):
                current = paths[: sum(len(path.frames) > index for path in paths)]
                bank.shrink(len(current))
                frames = [path.frames[index] for path in current]
                if index not in bank.prompted:
                    ahead.require([path.frames for path in current], index)
                step = _Step(index, chosen, frames, distances[index, : len(chosen.pointers)])
                logits, presence = self._take(step, encoded, bank)
                targets = [(path.owner, frame) for path, frame in zip(current, frames, strict=True)]
                transfer.add(targets, logits, presence)
                yield

    def _take(self, step: _Step, encoded: EncodedVideo, bank: MemoryBank) -> tuple[Tensor, Tensor]:
        """Take a step, or the answer of the prompts there: (N, h, w) logits and (N,) presence in [0, 1]."""
        if step.index in bank.prompted:
            return bank.answers(step.index)
        logits, pointers, spatial, presence = self._segmenter.step(
            step.attended,
            self._encoder.levels(encoded, step.frames),
            bank.spatial(step.attended),
            bank.pointers(step.attended),
            step.distances,
        )
        bank.add(step.index, spatial, pointers)
        return logits, presence

    @torch.inference_mode()
    def track_to(
        self, encoded: EncodedVideo, candidate: Candidate, frame: int, progress: StageProgress | None = None
    ) -> TrackedFrame:
        """Track a candidate over the whole video as far as a frame, for a correction there.

        On the first prompted frame nothing was tracked before it, and the prompts alone are attended to.

        Args:
            encoded: The video.
            candidate: The object.
            frame: Where it is to be corrected.
            progress: Told of each step.
        """
        segmenter = self._segmenter
        everywhere = paths_of(0, candidate, range(len(encoded)))
        path = next(path for path in everywhere if frame in path.frames)
        path = replace(path, frames=path.frames[: path.frames.index(frame) + 1])
        bank = MemoryBank([path], segmenter.memory_reach)
        attended = [
            segmenter.attended_memories(index, bank.prompted, len(encoded))
            for index in range(len(path.frames))
        ]
        distances = self._distances(attended)
        with Lookahead(self._encoder, encoded) as ahead:
            for index, chosen in enumerate(attended):
                ahead.require([path.frames], index)
                step = _Step(index, chosen, [path.frames[index]], distances[index, : len(chosen.pointers)])
                logits, _ = self._take(step, encoded, bank)
                if progress is not None:
                    progress((index + 1) / len(attended))
        conditioned = segmenter.attend(
            step.attended,
            self._encoder.levels(encoded, step.frames),
            bank.spatial(step.attended),
            bank.pointers(step.attended),
            step.distances,
        )
        return TrackedFrame(conditioned, logits)

    def _distances(self, attended: Sequence[AttendedMemories]) -> Tensor:
        """(steps, P) float32 distances of object pointers on the device, each row filled up: all of a path at once."""
        rows = [[distance for distance, _ in chosen.pointers] for chosen in attended]
        longest = max(1, *(len(row) for row in rows))
        filled = [[*row, *[0] * (longest - len(row))] for row in rows]
        return torch.tensor(filled, dtype=torch.float32).to(self._segmenter.device)


def paths_of(owner: int, candidate: Candidate, frames: Sequence[int]) -> Iterator[Path]:
    """The paths forwards and backwards from the frame where a candidate begins; a path of one frame is left out.

    Args:
        owner: Index of the candidate.
        candidate: The object, with its memories.
        frames: Where to track, rising.
    """
    memories, first = candidate.memories, candidate.first_frame
    wanted = {*memories, *frames}
    onwards = [first, *sorted(frame for frame in wanted if frame > first)]
    back = [first, *sorted((frame for frame in wanted if frame < first), reverse=True)]
    ahead = {index: memories[frame] for index, frame in enumerate(onwards) if frame in memories}
    behind = {index: memories[frame] for index, frame in enumerate(back) if frame in memories}
    if len(onwards) > 1 or len(back) == 1:
        yield Path(owner, tuple(onwards), {**ahead, **{-index: behind[index] for index in behind if index}})
    if len(back) > 1:
        yield Path(owner, tuple(back), {**behind, **{-index: ahead[index] for index in ahead if index}})
