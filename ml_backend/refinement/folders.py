"""The folders of refinements: room is made there, and one process at a time carries refinements on there.

Below the data folder: ``refinement/<number>`` for each refinement that has not ended, and ``refinement/features``
for the vision features, which they share.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from steerseg.errors import ArtefactError
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


def lock_file(path: Path) -> int | None:
    """Take the lock of a file, until it is closed or the process ends.

    Returns:
        The open file; ``None`` where another process has the lock.

    Raises:
        ArtefactError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written: {error.strerror}; check STEERSEG_DATA_DIR") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
