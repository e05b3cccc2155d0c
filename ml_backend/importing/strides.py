"""How a video is thinned and split into tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from steerseg.errors import ConfigError, VideoError

Stride = int | Literal["auto"]


@dataclass(frozen=True)
class Part:
    """A stretch of a video that becomes one task.

    Attributes:
        first: Index of its first frame among those that the stride leaves.
        count: How many of them it has.
    """

    first: int
    count: int


@dataclass(frozen=True)
class Cut:
    """Which frames of a video become tasks.

    Attributes:
        stride: One frame in so many is taken; ``auto`` for the smallest with which a task can hold the video.
        max_pages: Most frames of a task.
        split_pages: Frames of a task where a longer video becomes several tasks; ``None`` to refuse a longer one.
    """

    stride: Stride
    max_pages: int
    split_pages: int | None = None

    def __post_init__(self) -> None:
        if self.stride != "auto" and self.stride < 1:
            raise ConfigError(f"stride is {self.stride}; expected 1 (every frame) or more, or auto")
        if self.max_pages < 1:
            raise ConfigError(f"the number of pages a task is {self.max_pages}; expected 1 or more")
        if self.split_pages is not None and self.split_pages < 1:
            raise ConfigError(f"tasks of {self.split_pages} pages were asked for; expected 1 or more")

    def step(self, frames: int, most: int) -> int:
        """The stride for a video of so many frames, of which a task holds so many."""
        if self.stride != "auto":
            return self.stride
        return 1 if self.split_pages is not None else max(1, math.ceil(frames / most))

    def with_stride(self, stride: Stride | None) -> Cut:
        """The same with a stride of its own, where one is given."""
        return self if stride is None else replace(self, stride=stride)

    def check_pages(self, name: str, frames: int, stride: int) -> None:
        """Refuse a video with more pages than a task can show.

        Raises:
            VideoError: It has more, and is not to be split.
            ConfigError: The parts would have more.
        """
        if self.split_pages is not None and self.split_pages > self.max_pages:
            raise ConfigError(
                f"tasks of {self.split_pages} pages were asked for, but a task has at most {self.max_pages}; choose "
                "--split-pages or --max-pages otherwise"
            )
        if self.split_pages is None and math.ceil(frames / stride) > self.max_pages:
            fitting = math.ceil(frames / self.max_pages)
            raise VideoError(
                f"{name} has about {frames} frames, which at stride {stride} are more than {self.max_pages} pages; "
                f"import it with --stride {fitting} ({math.ceil(frames / fitting)} pages), with --stride auto, or "
                f"with --split-pages {self.max_pages}"
            )


def split(count: int, size: int | None) -> list[Part]:
    """Cut ``count`` frames into parts of ``size``, the last one shorter; one part where no size is given."""
    size = size or max(1, count)
    return [Part(first, min(size, count - first)) for first in range(0, count, size)]


def read_stride(text: str) -> Stride:
    """A stride as a person writes it: a number, or ``auto``.

    Raises:
        ValueError: It is neither.
    """
    if text.strip().lower() == "auto":
        return "auto"
    stride = int(text)
    if stride < 1:
        raise ValueError(f"{stride} is below 1")
    return stride
