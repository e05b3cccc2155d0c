"""Where refinements keep their files, and what makes room there.

Below the data folder: ``refinement/<number>`` for each refinement that has not ended, and ``refinement/features``
for the vision features, which they share.
"""

from __future__ import annotations

from pathlib import Path

from steerseg.runtime.artefacts import explained

FOLDER = "refinement"
FEATURES = "features"


def evict_features(data_dir: Path, limit: int) -> None:
    """Remove the vision features that were used longest ago until the rest is below ``limit`` bytes.

    Nothing may be refined meanwhile.

    Raises:
        ArtefactError: A file cannot be removed.
    """
    folder = data_dir / FOLDER / FEATURES
    if not folder.is_dir():
        return
    with explained(folder):
        files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        kept = 0
        for file in files:
            kept += file.stat().st_size
            if kept > limit:
                file.unlink()
