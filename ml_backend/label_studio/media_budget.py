"""What the media of one task may take together: bytes of all its files, and seconds."""

from __future__ import annotations

import threading
import time

from ml_backend.label_studio.media_access import MediaTimeoutError, MediaTooLargeError


class TaskBudget:
    """Counts while files arrive, so that a task never takes more than it may. Safe to share between threads.

    Args:
        max_bytes: Most bytes of all files of the task together.
        file_seconds: In which each file has to arrive, once it is asked for.
        seconds: In which all of them have to arrive; those of one file where the task has no more.
    """

    def __init__(self, max_bytes: int, file_seconds: float, seconds: float | None = None) -> None:
        self._max_bytes = max_bytes
        self._file_seconds = file_seconds
        self._several = seconds is not None
        self._seconds = file_seconds if seconds is None else seconds
        self._ends = time.monotonic() + self._seconds
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count bytes before they are written; less than 0 gives some back.

        Raises:
            MediaTooLargeError: They are more than the task may have.
            MediaTimeoutError: The time is over.
        """
        with self._lock:
            self._taken += size
            taken = self._taken
        if taken > self._max_bytes:
            raise MediaTooLargeError(
                f"the task's media have more than {self._max_bytes / 2**20:.0f} MiB together; use a larger stride, a "
                "shorter or smaller clip, or raise STEERSEG_MAX_DOWNLOAD_MIB"
            )
        self.seconds_left()

    def end(self) -> None:
        """Let every download under the budget stop."""
        self._ends = 0.0

    def seconds_left(self) -> float:
        """Seconds that are left, above 0.

        Raises:
            MediaTimeoutError: None are.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise self._over()
        return left

    def file_seconds(self) -> float:
        """Seconds that the next file may take, above 0.

        Raises:
            MediaTimeoutError: None are left.
        """
        return min(self._file_seconds, self.seconds_left())

    def too_slow(self, shown: str) -> MediaTimeoutError:
        """The error of a file that did not arrive in its seconds, by the limit that it ran into.

        Args:
            shown: The file, for a person.
        """
        if self._several and time.monotonic() >= self._ends:
            return self._over()
        return MediaTimeoutError(
            f"{shown} did not arrive within the time limit ({self._file_seconds:g} s for a file); check the server, "
            "or raise STEERSEG_DOWNLOAD_TIMEOUT"
        )

    def _over(self) -> MediaTimeoutError:
        together = f" together ({self._file_seconds:g} s for a file)" if self._several else ""
        return MediaTimeoutError(
            f"the task's media did not arrive within {self._seconds:g} s{together}; check the server, or raise "
            "STEERSEG_DOWNLOAD_TIMEOUT"
        )
