"""Predicted masks as pictures, and the zip that a dataset's server takes.

The servers of MeViS and Ref-YouTube-VOS want ``<video>/<expression>/<frame>.png`` for every frame that the dataset
lists, 0 and 255; Ref-YouTube-VOS below a folder ``Annotations``.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steerseg.errors import ConfigError
from steerseg.evaluation.sample import Sample
from steerseg.runtime.artefacts import building_folder, explained, move_into_place


@dataclass(frozen=True)
class MaskFolder:
    """Predicted masks on disk: ``<root>/<variant>/<video>/<expression>/<frame>.png``."""

    root: Path

    def folder(self, variant: str, sample: Sample) -> Path:
        """The folder of one prediction."""
        return self.root / variant / sample.id

    def holds(self, variant: str, sample: Sample) -> bool:
        """Whether a prediction is there, with all its frames."""
        return self.folder(variant, sample).is_dir()

    def write(self, variant: str, sample: Sample, masks: NDArray[np.bool_]) -> None:
        """Write masks (T, H, W) as a whole or not at all; what an earlier run left is replaced.

        Raises:
            ArtefactError: The disk is full or not writable.
        """
        final = self.folder(variant, sample)
        shutil.rmtree(final, ignore_errors=True)
        with building_folder(final) as folder, explained(final):
            for frame, mask in zip(sample.frames, masks, strict=True):
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{frame}.png")


def write_submission(
    path: Path, masks: MaskFolder, variant: str, samples: Sequence[Sample], folder: str = ""
) -> None:
    """Pack a variant's predictions for a server.

    Args:
        path: The zip file.
        masks: The predictions.
        variant: Name of the variant.
        samples: All samples of the split.
        folder: Prefix of the paths in the file; "" for none.

    Raises:
        ConfigError: A prediction is missing.
        ArtefactError: The disk is full or not writable.
    """
    missing = [sample.id for sample in samples if not masks.holds(variant, sample)]
    if missing:
        raise ConfigError(
            f"{masks.root / variant} lacks {len(missing)} of {len(samples)} predictions, for instance "
            f"{missing[0]}; run the same command again, without --limit, and then submit"
        )
    with explained(path.parent), NamedTemporaryFile(dir=path.parent, suffix=".zip", delete=False) as file:
        partial = Path(file.name)
        try:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # pictures are packed already
                for sample in samples:
                    for frame in sample.frames:
                        picture = masks.folder(variant, sample) / f"{frame}.png"
                        archive.write(picture, f"{folder}/{sample.id}/{frame}.png".lstrip("/"))
            partial.chmod(0o644)
            move_into_place(partial, path)
        finally:
            partial.unlink(missing_ok=True)
