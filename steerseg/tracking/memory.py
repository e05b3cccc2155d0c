"""The memories of a batch of objects on their way through a video: only what can still be attended to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerseg.segmenters.base import AttendedMemories, MemoryReach, ObjectMemory


@dataclass(frozen=True)
class Path:
    """One object's way in one direction of time, beginning on its first prompted frame.

    Attributes:
        owner: Index of the candidate.
        frames: Frames of the video in the order of tracking; the first is prompted.
        memories: Memories from prompts, by index on the path; indices behind its start are negative.
    """

    owner: int
    frames: tuple[int, ...]
    memories: dict[int, ObjectMemory]


class MemoryBank:
    """Spatial memories and object pointers of N paths, by index on the path.

    Args:
        paths: The paths; all have prompts at the same indices.
        reach: For how many steps memories count; older ones are dropped unless they come from prompts.
    """

    def __init__(self, paths: Sequence[Path], reach: MemoryReach) -> None:
        self.prompted = tuple(paths[0].memories)
        self._active = len(paths)
        self._reach = reach
        self._known = {index: [path.memories[index] for path in paths] for index in self.prompted}
        self._spatial = {
            index: torch.stack([memory.spatial for memory in memories])
            for index, memories in self._known.items()
        }
        self._pointers = {
            index: torch.stack([memory.pointer for memory in memories])
            for index, memories in self._known.items()
        }

    def shrink(self, active: int) -> None:
        """Go on with the first ``active`` paths, since the others have ended."""
        if active == self._active:
            return
        self._active = active
        for bank in (self._spatial, self._pointers):
            bank.update({index: memory[:active] for index, memory in bank.items()})

    def answers(self, index: int) -> tuple[Tensor, Tensor]:
        """Masks that prompts gave at an index: (N, h, w) float32 logits and (N,) presence in [0, 1]."""
        known = self._known[index][: self._active]
        presence = torch.stack([memory.presence for memory in known])
        return torch.stack([memory.logits for memory in known]).float(), presence[:, 0].float().sigmoid()

    def spatial(self, attended: AttendedMemories) -> list[Tensor]:
        """(N, ...) of each spatial memory that is attended to."""
        return [self._spatial[index] for _, index in attended.spatial]

    def pointers(self, attended: AttendedMemories) -> list[Tensor]:
        """(N, C) of each object pointer that is attended to."""
        return [self._pointers[index] for _, index in attended.pointers]

    def add(self, index: int, spatial: Tensor, pointers: Tensor) -> None:
        """Remember a step, and drop what lies out of reach.

        Args:
            index: Of the step.
            spatial: (N, ...).
            pointers: (N, C).
        """
        self._spatial[index], self._pointers[index] = spatial, pointers
        for bank, reach in ((self._spatial, self._reach.spatial), (self._pointers, self._reach.pointers)):
            if index - reach not in self._known:
                bank.pop(index - reach, None)
