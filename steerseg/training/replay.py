"""Sources of replayed clips: the sprite world, or a dataset."""

from __future__ import annotations

import hashlib
from pathlib import Path

from steerseg.errors import ConfigError
from steerseg.presets import ReplaySpec
from steerseg.replay import Part, ReplayClip, ReplaySource
from steerseg.video import load_video

SPRITES = "sprites"


def open_replay(spec: ReplaySpec) -> ReplaySource:
    """The clips that a preset names.

    Raises:
        ConfigError: The source is neither "sprites" nor a dataset with ground truth.
    """
    if spec.source == SPRITES:
        from steerseg.demo.replay import SpriteReplay  # only the demo needs the renderer

        return SpriteReplay(spec)
    if not Path(spec.source).is_dir():
        raise ConfigError(
            f"there is nothing to replay at {spec.source!r}; a preset's 'replay' names \"{SPRITES}\" or the "
            "folder of a dataset in Ref-YouTube-VOS layout beside the preset file."
        )
    return DatasetReplay(spec)


class DatasetReplay:
    """Expressions of a dataset in Ref-YouTube-VOS layout, one of each clip, in an order by hash.

    Args:
        spec: Names the dataset. The held-out clips come first in that order, so that more clips to learn from
            never take any of them.
    """

    def __init__(self, spec: ReplaySpec) -> None:
        from steerseg.evaluation.readers import Sample, read_ref_youtube_vos

        def order(name: str) -> bytes:
            return hashlib.sha256(f"{spec.seed}:{name}".encode()).digest()

        chosen: dict[str, Sample] = {}
        for sample in read_ref_youtube_vos(spec.source, spec.split):
            known = chosen.get(sample.video)
            if known is None or order(sample.id) < order(known.id):
                chosen[sample.video] = sample
        self._samples = sorted(chosen.values(), key=lambda sample: order(sample.video))
        self._spec = spec

    def __call__(self, part: Part, index: int) -> ReplayClip:
        """Read a clip; see :class:`~steerseg.replay.ReplaySource`."""
        position = index if part == "held_out" else self._spec.held_out + index
        if position >= len(self._samples):
            raise ConfigError(
                f"{self._spec.source} has {len(self._samples)} clips in {self._spec.split!r}, too few for "
                f"{self._spec.held_out} held out and {self._spec.training} to learn from; lower them in the "
                "preset's 'replay'."
            )
        sample = self._samples[position]
        return ReplayClip(load_video(sample.folder, fps=sample.fps), sample.expression, sample.masks())
