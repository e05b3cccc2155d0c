"""On the server: media by digest, for the hosts of a cluster."""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from ml_backend.label_studio.media_cache import file_digest
from ml_backend.models.fleet.messages import MediaPart
from steerseg.errors import ConfigError, VideoError
from steerseg.runtime.lru import LruCache

log = logging.getLogger(__name__)

_KNOWN = 8192
"""Files whose digests are remembered; a video is one, a folder of frames as many as it has frames."""

_FileKey = tuple[str, int, int]


def is_server(location: str) -> bool:
    """Whether hosts get media from a server, in place of a folder or a bucket."""
    return location.startswith(("http://", "https://"))


class SharedMedia:
    """Offers media to the hosts of a cluster, by digest. Safe to share between threads.

    Args:
        location: A folder that every host sees, a bucket such as ``s3://videos/cache``, or the address by which they
            reach this server.

    Attributes:
        token: What this server asks for; new with each start.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self.token = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._digests: LruCache[_FileKey, MediaPart] = LruCache(_KNOWN)
        self._offered: LruCache[str, Path] = LruCache(_KNOWN)
        self._published: LruCache[str, bool] = LruCache(_KNOWN)

    def offer(self, media: Path) -> tuple[MediaPart, ...]:
        """Let hosts have a video.

        Args:
            media: A video file, or a folder of frames.

        Returns:
            Its files.

        Raises:
            VideoError: It cannot be read.
            ConfigError: The folder or bucket cannot be written.
        """
        try:
            named = (
                [(path, path.name) for path in sorted(media.iterdir()) if path.is_file()]
                if media.is_dir()
                else [(media, "")]
            )
            parts = tuple(self._describe(path, name) for path, name in named)
        except OSError as error:
            raise VideoError(f"the task's media cannot be read: {error.strerror}; ask again") from error
        for (path, _), part in zip(named, parts, strict=True):
            self._publish(path, part)
        return parts

    def find(self, digest: str) -> Path | None:
        """The file of a digest that was offered; ``None`` for any other."""
        with self._lock:
            path = self._offered.get(digest)
        return path if path is not None and path.is_file() else None

    def allows(self, token: str | None) -> bool:
        """Whether a host may fetch media; compares in a time that does not depend on how much of it is right."""
        given = (token or "").encode(errors="surrogatepass")
        return is_server(self.location) and hmac.compare_digest(given, self.token.encode())

    def _describe(self, path: Path, name: str) -> MediaPart:
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size)
        with self._lock:
            known = self._digests.get(key)
        part = known or MediaPart(name, file_digest(path), stat.st_size)
        with self._lock:
            self._digests.put(key, part)
            self._offered.put(part.digest, path)
        return part

    def _publish(self, path: Path, part: MediaPart) -> None:
        """Have a file in the folder or the bucket."""
        if is_server(self.location):
            return
        with self._lock:
            if self._published.get(part.digest):
                return
        put: Callable[[Path, MediaPart], None] = (
            self._put_in_bucket if "://" in self.location else self._put_in_folder
        )
        put(path, part)
        with self._lock:
            self._published.put(part.digest, True)

    def _put_in_folder(self, path: Path, part: MediaPart) -> None:
        folder = Path(self.location)
        target = folder / part.digest
        partial = folder / f".{part.digest}.{secrets.token_hex(4)}.partial"
        try:
            if target.is_file() and target.stat().st_size == part.size:
                return
            folder.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, partial)
                os.replace(partial, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    partial.unlink()
        except OSError as error:
            raise ConfigError(
                f"media cannot be shared with the cluster in {folder} ({error.strerror}); STEERSEG_CLUSTER_MEDIA names "
                "the folder"
            ) from error

    def _put_in_bucket(self, path: Path, part: MediaPart) -> None:
        url = f"{self.location}/{part.digest}"
        try:
            import fsspec

            system, name = fsspec.core.url_to_fs(url)
            if not (system.exists(name) and system.size(name) == part.size):
                system.put_file(str(path), name)
        except ImportError as error:
            raise ConfigError(
                f"media cannot be shared with the cluster in {self.location} ({error}); install the extra `cloud`"
            ) from error
        except Exception as error:  # each library of a storage has errors of its own
            log.exception("media could not be shared")
            raise ConfigError(
                f"media cannot be shared with the cluster in {self.location} ({type(error).__name__}); see that this "
                "server may write there. The server's log has the details"
            ) from error
