"""The right of one server to work with a data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ml_backend.database.errors import StoreError
from ml_backend.database.private_files import make_private_folder


class FolderLock:
    """A lock on a data folder, which ends with the process that has it.

    See :class:`~ml_backend.database.server_lock.ServerLock`.

    Args:
        folder: The data folder; made if missing.
    """

    lasting = True
    term: int | None = None

    def __init__(self, folder: Path) -> None:
        self.what = str(folder)
        self._path = folder / "server.lock"
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock unless another one has it; whether this one has it now.

        Raises:
            StoreError: The folder cannot be made, or its file system has no locks.
        """
        if self._descriptor is not None:
            return True
        make_private_folder(self._path.parent)
        try:
            # Not inherited: a model process must not keep what its server had.
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            raise self._unusable(error) from error
        self._descriptor = descriptor
        return True

    def held(self) -> bool:
        """Whether this one has it."""
        return self._descriptor is not None

    def release(self) -> None:
        """Let another one have it. May be repeated."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(
            f"the data folder cannot be locked by {self._path} ({error.strerror}); name another folder by "
            "STEERSEG_DATA_DIR"
        )
