"""Training samples: visual tokens of a clip with its question and the targets on the token grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from steerseg.grounding import VisionContext
from steerseg.lvlm.base import VisionFeatures
from steerseg.ranking import on_frame_grid, on_video_grid


@dataclass(frozen=True)
class TrainingSample:
    """One (video, expression) with the targets of its grounding maps.

    Attributes:
        context: Visual tokens of the keyframes.
        question: The grounding question, attributes included.
        frame_target: (N, h, w) mask share of each token of the context's N images, in [0, 1].
        video_target: (t, h', w') the same for the video pass.
        weight: Weight of the sample in the loss.
        frame_share: (N,) in [0, 1], how much each image's target counts; 0 where the truth is unknown. All 1
            where left out.
        video_share: (t,) the same for the slices of the video pass.
        frame_rejected: (M, N, h, w) masks that are wrong answers, as shares of the tokens; none where left out.
        video_rejected: (M, t, h', w') the same for the video pass.
    """

    context: VisionContext
    question: str
    frame_target: torch.Tensor
    video_target: torch.Tensor
    weight: float = 1.0
    frame_share: torch.Tensor | None = None
    video_share: torch.Tensor | None = None
    frame_rejected: torch.Tensor | None = None
    video_rejected: torch.Tensor | None = None

    @classmethod
    def from_masks(
        cls,
        context: VisionContext,
        question: str,
        masks: NDArray[np.bool_],
        temporal_merge: int,
        *,
        pictures: Sequence[int] | None = None,
        weight: float = 1.0,
        shares: NDArray[np.float32] | None = None,
        rejected: NDArray[np.bool_] | None = None,
    ) -> TrainingSample:
        """From (K, H, W) masks on the keyframes, area-averaged on the token grids.

        Args:
            context: Visual tokens of the keyframes.
            question: The grounding question.
            masks: The true masks; anything where ``shares`` is 0.
            temporal_merge: Frames of a video slice.
            pictures: The keyframes that ``context`` holds as images, where those are not all.
            weight: Weight of the sample.
            shares: (K,) in [0, 1], how much each keyframe's mask counts; all 1 where left out.
            rejected: (M, K, H, W) masks that are wrong answers.
        """
        images = range(len(masks)) if pictures is None else list(pictures)
        frame, video = _on_grids(torch.from_numpy(masks)[None], context, images, temporal_merge)
        frame_share = video_share = None
        if shares is not None:
            known = torch.from_numpy(np.asarray(shares, dtype=np.float32))
            frame_share, video_share = known[images], _of_slices(known, temporal_merge)
        wrong_frame = wrong_video = None
        if rejected is not None and len(rejected):
            wrong_frame, wrong_video = _on_grids(torch.from_numpy(rejected), context, images, temporal_merge)
        return cls(
            context,
            question,
            frame[0],
            video[0],
            weight,
            frame_share,
            video_share,
            wrong_frame,
            wrong_video,
        )

    @property
    def teaches(self) -> bool:
        """Whether any pass over it has something to learn from: a visible object, or a wrong answer."""
        rows = [image_row(self, index) for index in range(len(self.frame_target))]
        return any(row.teaches for row in (video_row(self), *rows))


def _on_grids(
    masks: torch.Tensor, context: VisionContext, images: Sequence[int], temporal_merge: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, K, H, W) -> on the frame grid (M, N, h, w) and on the video grid (M, t, h', w')."""
    frame = on_frame_grid(masks[:, list(images)], context.frames.grid[1:])
    return frame, on_video_grid(masks, context.video.grid[1:], temporal_merge)


def _of_slices(shares: torch.Tensor, temporal_merge: int) -> torch.Tensor:
    """(K,) -> (t,): a slice's target is known no better than the least known of its frames."""
    missing = -len(shares) % temporal_merge
    if missing:
        shares = torch.cat([shares, shares[-1:].expand(missing)])
    return shares.reshape(-1, temporal_merge).amin(dim=1)


@dataclass(frozen=True)
class Row:
    """One question of one pass: about a whole video, or about one image.

    Attributes:
        question: The grounding question.
        vision: Visual tokens of the pass.
        target: (t, h, w) mask share of each visual token in [0, 1]; t = 1 for an image.
        share: (t,) in [0, 1], how much each slice's target counts.
        rejected: (M, t, h, w) masks that are wrong answers; ``None`` without any.
        weight: Weight of the sample in the loss.
    """

    question: str
    vision: VisionFeatures
    target: torch.Tensor
    share: torch.Tensor
    rejected: torch.Tensor | None
    weight: float

    @property
    def is_video(self) -> bool:
        """Whether it is about a whole video."""
        return self.vision.kind == "video"

    @property
    def visible(self) -> bool:
        """Whether the truth shows anything: min-max forces a peak, so an empty target teaches nothing."""
        return bool((self.target.amax(dim=(1, 2)) * self.share).amax() > 0)

    @property
    def teaches(self) -> bool:
        """Whether there is something to learn from: a visible object, or a wrong answer."""
        return self.visible or (self.rejected is not None and bool(self.rejected.amax() > 0))


def video_row(sample: TrainingSample) -> Row:
    """The row of a sample's video pass."""
    share = sample.video_share
    return Row(
        sample.question,
        sample.context.video,
        sample.video_target,
        torch.ones(len(sample.video_target)) if share is None else share,
        sample.video_rejected,
        sample.weight,
    )


def image_row(sample: TrainingSample, index: int) -> Row:
    """The row of a sample's frame pass ``index``."""
    part = slice(index, index + 1)
    wrong = sample.frame_rejected
    return Row(
        sample.question,
        sample.context.frames[part],
        sample.frame_target[part],
        torch.ones(1) if sample.frame_share is None else sample.frame_share[part],
        None if wrong is None else wrong[:, part],
        sample.weight,
    )


@dataclass(frozen=True)
class ChosenRow:
    """A row of a step, by where it comes from.

    Attributes:
        sample: Index of its sample in the batch.
        image: Index of the image among the sample's; ``None`` for the video pass.
    """

    sample: int
    image: int | None

    def row(self, batch: Sequence[TrainingSample]) -> Row:
        """The row itself."""
        sample = batch[self.sample]
        return video_row(sample) if self.image is None else image_row(sample, self.image)


def choose_rows(
    batch: Sequence[TrainingSample], rng: np.random.Generator, frames_per_sample: int
) -> list[ChosenRow]:
    """The rows of a step that have something to learn from, first those of videos.

    Args:
        batch: The samples of the step.
        rng: Chooses the images.
        frames_per_sample: Most images of each sample.
    """
    chosen = [ChosenRow(number, None) for number, sample in enumerate(batch) if video_row(sample).teaches]
    for number, sample in enumerate(batch):
        teaching = [index for index in range(len(sample.frame_target)) if image_row(sample, index).teaches]
        drawn = sorted(rng.permutation(len(teaching))[:frames_per_sample].tolist())
        chosen += [ChosenRow(number, teaching[index]) for index in drawn]
    return chosen


def passes(rows: Sequence[Row], most: int, fitting: Callable[[int], int]) -> Iterator[list[Row]]:
    """Group rows into passes: those of one have one grid and one pace, and are as many as memory allows.

    Args:
        rows: All rows.
        most: Most rows of one pass.
        fitting: The number of a row's visual tokens -> how many such rows have room.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.vision.layout, []).append(row)
    for group in groups.values():
        size = min(most, fitting(group[0].vision.tokens.shape[1]))
        for start in range(0, len(group), size):
            yield group[start : start + size]
