"""A folder and files that their owner alone may read."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from ml_backend.database.errors import StoreError

log = logging.getLogger(__name__)

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path) -> None:
    """Make a data folder if it is missing, and keep others out of it.

    A folder that many share, such as ``/tmp``, stays as it is: its files are private nevertheless.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the data folder {folder} cannot be made: {error.strerror}; name a writable folder by STEERSEG_DATA_DIR"
        ) from error
    if not folder.stat().st_mode & stat.S_ISVTX and folder.resolve() not in (Path("/"), Path.home()):
        _keep_others_out(folder)


def make_private_file(path: Path) -> None:
    """Make a file if it is missing, and keep others from reading it and what SQLite keeps beside it.

    An existing file is not opened: closing it would end the locks that this process has on it.
    """
    with contextlib.suppress(OSError):  # it exists, or whoever opens it says why it cannot be made
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        with contextlib.suppress(FileNotFoundError):
            _keep_others_out(file)


def _keep_others_out(path: Path) -> None:
    status = path.stat()
    if not status.st_mode & _OTHERS or status.st_uid != os.geteuid():
        return
    try:
        path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)
    except OSError as error:
        log.warning("others may read %s, and that cannot be changed: %s", path, error.strerror)
