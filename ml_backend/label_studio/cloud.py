"""Media in cloud storage that is read with this machine's own credentials, by fsspec.

Label Studio hands out what its storages cover, so nothing here is needed for that. Buckets that the operator names are
read without it: the credentials are those that the libraries find (environment, profile, metadata of the machine).
Any other bucket would be read with the operator's rights on the word of a task, so it is left to Label Studio.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_backend.label_studio.media_access import (
    MediaError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from ml_backend.label_studio.media_cache import CachedFile
from steerseg.video.download import FetchResult
from steerseg.video.download_errors import DownloadTimeoutError

PROTOCOLS: Mapping[str, str] = {"s3": "s3", "gs": "gs", "azure-blob": "az"}
"""Label Studio's schemes of cloud storage, and fsspec's names for the same."""

_BLOCK = 8 * 2**20
_ETAG_KEYS = ("ETag", "etag", "md5Hash", "content_md5")


def is_cloud_uri(reference: str) -> bool:
    """Whether a reference names an object in cloud storage, such as ``s3://bucket/clip.mp4``."""
    return reference.partition("://")[0] in PROTOCOLS and "://" in reference


class CloudReader:
    """Reads objects below the named roots.

    Args:
        roots: Buckets or folders in them, such as ``s3://videos/raw``.
        timeout: Seconds that one wait for the network may take, where the library can be told.
    """

    def __init__(self, roots: Sequence[str], timeout: float) -> None:
        self._roots = tuple(_split(root) for root in roots)
        self._timeout = timeout

    def covers(self, uri: str) -> bool:
        """Whether an object lies below a root."""
        scheme, segments = _split(uri)
        if "." in segments or ".." in segments:
            return False
        return any(
            scheme == of and len(segments) > len(root) and segments[: len(root)] == root
            for of, root in self._roots
        )

    def fetch(
        self,
        uri: str,
        destination: Path,
        *,
        max_bytes: int,
        deadline: float,
        known: CachedFile | None,
        count: Callable[[int], None] = lambda _: None,
    ) -> FetchResult:
        """Stream an object into a file, unless it is the one that is cached.

        Args:
            uri: The object; it lies below a root.
            destination: The file.
            max_bytes: Most bytes.
            deadline: Seconds that it may take in all; checked between blocks of 8 MiB.
            known: The cached file, if there is one.
            count: Called with the bytes of each block before it is written; may raise to stop.

        Raises:
            MediaError: It cannot be had.
            DownloadTimeoutError: It did not arrive in its seconds.
        """
        ends = time.monotonic() + deadline
        scheme, _, path = uri.partition("://")
        files = self._open_filesystem(scheme)
        try:
            info: dict[str, Any] = files.info(path)
            etag = next((str(info[key]) for key in _ETAG_KEYS if info.get(key)), "")
            if known is not None and etag and known.etag == etag:
                return FetchResult("", etag, "", modified=False)
            if info.get("size", 0) > max_bytes:
                raise _too_large(uri, max_bytes)
            _copy(files, path, destination, uri, max_bytes, ends, count)
        except (MediaError, DownloadTimeoutError):
            raise
        except FileNotFoundError as error:
            raise MediaUnavailableError(
                f"{uri} cannot be read (404): there is no such object", 404
            ) from error
        except Exception as error:  # each cloud's library has errors of its own
            raise MediaError(
                f"{uri} cannot be read with this machine's credentials ({type(error).__name__}: "
                f"{str(error)[:200]}); check them, or take the bucket out of STEERSEG_CLOUD_ROOTS so that Label "
                "Studio is asked"
            ) from error
        return FetchResult("", etag, "", modified=True)

    def _open_filesystem(self, scheme: str) -> Any:
        options: dict[str, Any] = {}
        if scheme == "s3":
            options["config_kwargs"] = {"connect_timeout": self._timeout, "read_timeout": self._timeout}
        try:
            return importlib.import_module("fsspec").filesystem(PROTOCOLS[scheme], **options)
        except ImportError as error:
            raise MediaError(
                f"{scheme}:// is read directly (STEERSEG_CLOUD_ROOTS), for which a package is missing; run "
                "pip install '.[cloud]'"
            ) from error
        except Exception as error:  # no credentials, or half of them
            raise MediaError(
                f"{scheme}:// cannot be read with this machine's credentials ({type(error).__name__}: "
                f"{str(error)[:200]})"
            ) from error


def _split(uri: str) -> tuple[str, tuple[str, ...]]:
    scheme, _, path = uri.partition("://")
    return scheme, tuple(path.rstrip("/").split("/"))


def _copy(
    files: Any,
    path: str,
    destination: Path,
    uri: str,
    max_bytes: int,
    ends: float,
    count: Callable[[int], None],
) -> None:
    received = 0
    with files.open(path, "rb", cache_type="none") as source, destination.open("wb") as file:
        while block := source.read(_BLOCK):
            received += len(block)
            if received > max_bytes:
                raise _too_large(uri, max_bytes)
            count(len(block))
            file.write(block)
            if time.monotonic() > ends:
                raise DownloadTimeoutError(f"{uri} did not arrive within its time limit")


def _too_large(uri: str, max_bytes: int) -> MediaTooLargeError:
    return MediaTooLargeError(
        f"{uri} is larger than the limit of {max_bytes / 2**20:.0f} MiB; use a shorter or smaller clip, or raise "
        "STEERSEG_MAX_DOWNLOAD_MIB"
    )
