"""The clips that choices are compared on, J&F of an answer, and paired tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from steerseg.demo.dataset import clips, load_manifest
from steerseg.masks import RLE, decode_rle
from steerseg.statistics import bootstrap_mean
from steerseg.video import Video, video_from_frames

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Question:
    """One expression of one clip.

    Attributes:
        name: Of the clip.
        video: Its frames.
        expression: What is asked for.
        truth: (T, H, W) masks of the target.
    """

    name: str
    video: Video
    expression: str
    truth: Masks


def questions(split: str, count: int) -> Iterator[Question]:
    """The first expression of each of the first ``count`` clips of a split of the demo's dataset."""
    for clip in islice(clips(load_manifest(split)), count):
        expression = clip.entry.expressions[0]
        yield Question(
            clip.entry.video,
            video_from_frames(clip.frames, fps=clip.fps),
            expression.text,
            clip.masks(expression),
        )


def decoded(rles: Sequence[RLE | None], like: Masks) -> Masks:
    """(T, H, W) masks; empty where there is none."""
    empty = np.zeros(like.shape[1:], dtype=bool)
    return np.stack([empty if rle is None else decode_rle(rle) for rle in rles])


def paired_rows(measured: Mapping[str, Sequence[float]], baseline: str) -> list[tuple[str, str, str]]:
    """Name, mean and gain over the baseline of each choice, with bootstrap intervals over clips.

    Args:
        measured: J&F of each clip, by the name of the choice.
        baseline: The name that the others are compared with.
    """
    base = np.asarray(measured[baseline])
    names = [str(index) for index in range(len(base))]
    rows = []
    for name, values in measured.items():
        gain = np.asarray(values) - base
        shown = "–" if name == baseline else str(bootstrap_mean(gain, names)).replace("-0.000", "0.000")
        rows.append((name, f"{np.mean(values):.3f}", shown))
    return rows
