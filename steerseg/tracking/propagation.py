"""Candidates tracked forwards and backwards in time, as batches over any segmenter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steerseg.segmenters.base import AttendedMemories, ObjectMemory, Segmenter
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.frame_encoder import FrameEncoder, Lookahead
from steerseg.tracking.host_transfer import HostTransfer, MaskSink
from steerseg.tracking.memory import MemoryBank, Path
from steerseg.tracking.tracklets import Candidate, StageProgress, TrackBuilder

_MAX_ROWS = 32  # paths of one batch


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
            for path in paths_of(owner, candidates[owner].memories, frames):
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
                if index in bank.prompted:
                    logits, presence = bank.answers(index)
                else:
                    ahead.require([path.frames for path in current], index)
                    logits, pointers, spatial, presence = segmenter.step(
                        chosen,
                        self._encoder.levels(encoded, frames),
                        bank.spatial(chosen),
                        bank.pointers(chosen),
                        distances[index, : len(chosen.pointers)],
                    )
                    bank.add(index, spatial, pointers)
                targets = [(path.owner, frame) for path, frame in zip(current, frames, strict=True)]
                transfer.add(targets, logits, presence)
                yield

    def _distances(self, attended: Sequence[AttendedMemories]) -> Tensor:
        """(steps, P) float32 distances of object pointers on the device, each row filled up: all of a path at once."""
        rows = [[distance for distance, _ in chosen.pointers] for chosen in attended]
        longest = max(1, *(len(row) for row in rows))
        filled = [[*row, *[0] * (longest - len(row))] for row in rows]
        return torch.tensor(filled, dtype=torch.float32).to(self._segmenter.device)


def paths_of(owner: int, memories: Mapping[int, ObjectMemory], frames: Sequence[int]) -> Iterator[Path]:
    """The paths forwards and backwards from the first prompted frame; a path of one frame is left out.

    Args:
        owner: Index of the candidate.
        memories: The object's memories, by prompted frame.
        frames: Where to track, rising.
    """
    first = min(memories)
    onwards = sorted({*memories, *(frame for frame in frames if frame > first)})
    back = [first, *(frame for frame in reversed(frames) if frame < first)]
    known = {index: memories[frame] for index, frame in enumerate(onwards) if frame in memories}
    if len(onwards) > 1 or len(back) == 1:
        yield Path(owner, tuple(onwards), known)
    if len(back) > 1:
        yield Path(owner, tuple(back), {-index: memory for index, memory in known.items()})
