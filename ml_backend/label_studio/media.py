"""A task's media as local files: fetched within limits, kept in a cache of bounded size.

What a task's data says is not trusted. Each hop of a download is checked for scheme, host and address; the
token goes to Label Studio alone; size and time are bounded; a file appears only when it is complete.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ml_backend.label_studio.cloud import CloudReader, is_cloud_uri
from ml_backend.label_studio.media_access import (
    MediaError,
    MediaHost,
    MediaPolicy,
    MediaRefusedError,
    MediaTimeoutError,
    MediaTooLargeError,
    MediaUnavailableError,
    is_media_path,
    shown_url,
    unavailable,
)
from ml_backend.label_studio.media_budget import TaskBudget
from ml_backend.label_studio.media_cache import CachedFile, MediaCache
from steerseg.video.download import FetchResult, fetch
from steerseg.video.download_errors import (
    AddressRefusedError,
    DownloadError,
    DownloadTimeoutError,
    DownloadTooLargeError,
    NoAnswerError,
    UncheckedAddressError,
)

_TASK_FILES = 10
"""A task of many pages may take so many times as long as one file (our choice)."""
_PART_BYTES = 8 * 2**20
"""Label Studio's proxy of a cloud storage sends no more at a time, and ends longer answers without an error."""


class MediaStore:
    """Fetches media and keeps it, least recently used out first.

    Args:
        directory: Where files are kept; made if missing. Processes may share it.
        host: The Label Studio of references without a host; calls may name another.
        download_timeout: Seconds that one file may take in all; all pages of a task together, ten times as many.
        wait_timeout: Seconds that one wait for the network may take.
        max_bytes: Most bytes of one file, and of all pages of a frames task together.
        max_pages: Most pages of a frames task.
        cache_bytes: Size that the cache is kept below; files used in the last 15 minutes stay nevertheless.
        allowed_hosts: Hosts that media may come from besides Label Studio; ``.example.org`` stands for
            every host below it. Empty: any host.
        allow_private_addresses: Let hosts other than Label Studio have private and loopback addresses.
        local_roots: Folders below which absolute local paths are accepted; none by default.
        local_files_root: Label Studio's ``LOCAL_FILES_DOCUMENT_ROOT``, if this machine sees it: files that it
            serves by ``/data/local-files/?d=`` are then read from there without a download.
        cloud_roots: Buckets, or folders in them, that are read with this machine's own credentials.
        concurrency: Pages that are fetched at the same time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        host: MediaHost | None = None,
        download_timeout: float = 60.0,
        wait_timeout: float = 20.0,
        max_bytes: int = 2 * 2**30,
        max_pages: int = 1000,
        cache_bytes: int = 10 * 2**30,
        allowed_hosts: Collection[str] = (),
        allow_private_addresses: bool = False,
        local_roots: Sequence[Path] = (),
        local_files_root: Path | None = None,
        cloud_roots: Sequence[str] = (),
        concurrency: int = 8,
    ) -> None:
        self._host = host
        self._download_timeout = download_timeout
        self._wait_timeout = min(wait_timeout, download_timeout)
        self._max_bytes = max_bytes
        self._max_pages = max_pages
        self._allowed_hosts = frozenset(name.lower().rstrip(".") for name in allowed_hosts)
        self._allow_private_addresses = allow_private_addresses
        self._local_roots = tuple(root.resolve() for root in local_roots)
        self._local_files_root = local_files_root.resolve() if local_files_root else None
        self._cloud = CloudReader(cloud_roots, self._wait_timeout)
        self._concurrency = concurrency
        self._cache = MediaCache(directory, cache_bytes)
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()

    def fetch(
        self,
        reference: str,
        *,
        host: MediaHost | None = None,
        task_id: int | None = None,
        budget: TaskBudget | None = None,
    ) -> Path:
        """Give the file that a task's data refers to.

        Args:
            reference: An http(s) URL, a path at Label Studio such as ``/data/upload/...`` or
                ``/data/local-files/?d=...``, an object in cloud storage such as ``s3://bucket/clip.mp4``, or an
                absolute local path below one of the allowed roots.
            host: The task's Label Studio; the store's own if not given.
            task_id: The task, for which Label Studio hands out objects in cloud storage.
            budget: What the files of the task may take together; those of one file if not given.

        Returns:
            A file to be read soon and never written: it may be shared and evicted later.

        Raises:
            MediaError: It cannot be had. Whether it is a video shows when it is decoded.
        """
        host = host or self._host
        budget = budget or TaskBudget(self._max_bytes, self._download_timeout)
        budget.seconds_left()
        if not isinstance(reference, str) or not reference.strip() or "\0" in reference:
            raise MediaError(
                f"the task's media is {str(reference)[:100]!r}; expected the address of a file, such as "
                "/data/upload/1/clip.mp4 or https://example.org/clip.mp4"
            )
        reference = reference.strip()
        if is_cloud_uri(reference):
            if self._cloud.covers(reference):
                return self._keep(reference, budget, partial(self._read_cloud, budget=budget))
            url = _cloud_url(reference, host, task_id)
        elif "://" in reference or reference.startswith("//"):
            url = _checked_url(reference, host)
        elif reference.startswith("data:"):
            raise MediaRefusedError(
                "media inside the task's data (data:...) is not supported; give an address"
            )
        else:
            local = self._allowed_local_path(reference)
            if local is not None:
                budget.take(local.stat().st_size)
                return local
            url = _label_studio_url(reference, host)
        shared = self._shared_file(url, host)
        if shared is not None:
            budget.take(shared.stat().st_size)
            return shared
        return self._keep(url, budget, partial(self._download, host=host, budget=budget))

    def fetch_frames(
        self,
        references: Sequence[str],
        *,
        host: MediaHost | None = None,
        task_id: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Path:
        """Give a folder with the pages of a frames task as ``00000.jpg``, ``00001.jpg``, ...

        Args:
            references: The pages in order, each as for :meth:`fetch`.
            host: The task's Label Studio; the store's own if not given.
            task_id: See :meth:`fetch`.
            progress: Called with the fraction of the pages that is there; may raise to stop.

        Raises:
            MediaError: A page cannot be had or is not an image; the message gives its number.
        """
        if isinstance(references, str) or not isinstance(references, Sequence) or not references:
            raise MediaError(
                "the task's list of frames is missing or empty; expected a list of image addresses"
            )
        if len(references) > self._max_pages:
            raise MediaTooLargeError(
                f"the task has {len(references)} pages, at most {self._max_pages} are accepted; import the "
                "video with a larger stride or in parts"
            )
        budget = TaskBudget(
            self._max_bytes, self._download_timeout, seconds=self._download_timeout * _TASK_FILES
        )
        files = self._fetch_pages(references, host, task_id, progress, budget)
        suffixes = []
        for page, file in enumerate(files):
            suffix = _image_suffix(file)
            if suffix is None:
                raise MediaError(
                    f"page {page} ({shown_url(references[page])}) is not a JPEG, PNG, WebP, BMP or TIFF image"
                )
            suffixes.append(suffix)
        return self._cache.folder(files, [f"{page:05d}{suffix}" for page, suffix in enumerate(suffixes)])

    # --- where it lies

    def _allowed_local_path(self, reference: str) -> Path | None:
        """An absolute local path below an allowed root, or ``None`` where it must be Label Studio's."""
        if not reference.startswith("/") or not self._local_roots:
            return None
        path = Path(reference).resolve()
        if any(path.is_relative_to(root) for root in self._local_roots) and path.is_file():
            return self._checked_size(path)
        return None

    def _shared_file(self, url: str, host: MediaHost | None) -> Path | None:
        """The file behind ``/data/local-files/?d=...`` where this machine sees Label Studio's folder."""
        if self._local_files_root is None or host is None:
            return None
        wanted = parse_qs(urlsplit(url).query).get("d")
        if (host.path_of(url) or "").rstrip("/") != "/data/local-files" or not wanted:
            return None
        path = (self._local_files_root / wanted[0].lstrip("/")).resolve()
        if path.is_relative_to(self._local_files_root) and path.is_file():
            return self._checked_size(path)
        return None

    def _checked_size(self, path: Path) -> Path:
        if path.stat().st_size > self._max_bytes:
            raise MediaTooLargeError(
                f"{path.name} is larger than the limit of {self._max_bytes / 2**20:.0f} MiB; use a shorter or "
                "smaller clip, or raise STEERSEG_MAX_DOWNLOAD_MIB"
            )
        return path

    # --- downloads

    def _keep(
        self, url: str, budget: TaskBudget, get: Callable[[str, Path, CachedFile | None], FetchResult]
    ) -> Path:
        """The cached content of a URL, after its source was asked where that is due."""
        with self._lock(url):
            known = self._cache.find(url)
            if known is not None and known.is_fresh():
                budget.take(known.path.stat().st_size)
                return self._cache.use(known)
            with self._cache.temporary() as temporary:
                answer = get(url, temporary, known)
                if not answer.modified and known is not None:
                    budget.take(known.path.stat().st_size)
                    return self._cache.use(self._cache.confirm(url, known, answer))
                _refuse_web_page(temporary, url)
                return self._cache.use(self._cache.keep(url, temporary, answer))

    def _read_cloud(
        self, uri: str, temporary: Path, known: CachedFile | None, *, budget: TaskBudget
    ) -> FetchResult:
        try:
            return self._cloud.fetch(
                uri,
                temporary,
                max_bytes=self._max_bytes,
                deadline=budget.file_seconds(),
                known=known,
                count=budget.take,
            )
        except DownloadTimeoutError:
            raise budget.too_slow(uri) from None

    def _download(
        self,
        url: str,
        temporary: Path,
        known: CachedFile | None,
        *,
        host: MediaHost | None,
        budget: TaskBudget,
    ) -> FetchResult:
        shown = shown_url(url)
        try:
            return fetch(
                url,
                temporary,
                policy=MediaPolicy(self._allowed_hosts, self._allow_private_addresses, host),
                max_bytes=self._max_bytes,
                timeout=self._wait_timeout,
                deadline=budget.file_seconds(),
                validators=None if known is None else known.validators,
                part_bytes=_PART_BYTES if host is not None and host.resolves(url) else None,
                count=budget.take,
            )
        except DownloadTimeoutError as error:
            if isinstance(error, NoAnswerError) and self._wait_timeout < self._download_timeout:
                raise MediaTimeoutError(
                    f"{shown} did not arrive: its server was silent for {self._wait_timeout:g} s; check the server, "
                    "and try again"
                ) from None
            raise budget.too_slow(shown) from None
        except DownloadTooLargeError:
            raise MediaTooLargeError(
                f"{shown} is larger than the limit of {self._max_bytes / 2**20:.0f} MiB; use a shorter or "
                "smaller clip, or raise STEERSEG_MAX_DOWNLOAD_MIB"
            ) from None
        except UncheckedAddressError:
            raise MediaRefusedError(
                f"{shown} leads through a proxy to a host whose address cannot be checked here; if you trust the "
                "host, name it in STEERSEG_ALLOWED_HOSTS"
            ) from None
        except AddressRefusedError as error:
            raise MediaRefusedError(
                f"{shown} leads to a private or local address ({error.host}), which is refused; if you trust it, "
                "set STEERSEG_ALLOW_PRIVATE_ADDRESSES=true"
            ) from None
        except DownloadError as error:
            if error.status is None:
                raise MediaError(str(error)) from None
            raise unavailable(url, error.status, host, error.url) from None

    def _fetch_pages(
        self,
        references: Sequence[str],
        host: MediaHost | None,
        task_id: int | None,
        progress: Callable[[float], None] | None,
        budget: TaskBudget,
    ) -> list[Path]:
        def one(page: int) -> Path:
            try:
                return self.fetch(references[page], host=host, task_id=task_id, budget=budget)
            except MediaUnavailableError as error:
                raise MediaUnavailableError(f"page {page}: {error}", error.status) from None
            except MediaError as error:
                raise type(error)(f"page {page}: {error}") from None

        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="media") as pool:
            futures: list[Future[Path]] = [pool.submit(one, page) for page in range(len(references))]
            try:
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    if progress is not None:
                        progress(1 - len(pending) / len(futures))
            finally:
                budget.end()  # those that are under way stop as well
                pool.shutdown(wait=True, cancel_futures=True)
        return [future.result() for future in futures]

    @contextlib.contextmanager
    def _lock(self, url: str) -> Iterator[None]:
        """Let one thread at a time fetch a URL; the others find it in the cache."""
        with self._locks_lock:
            if len(self._locks) > 10_000:
                self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
            lock = self._locks.setdefault(url, threading.Lock())
        with lock:
            yield


def _checked_url(reference: str, host: MediaHost | None) -> str:
    """A URL of a task's data, at the name of Label Studio that this machine knows it by."""
    try:
        urlsplit(reference)
    except ValueError:
        raise MediaError(f"{reference[:200]!r} is not a usable URL; expected https://host/path") from None
    return reference if host is None else host.rewrite(reference)


def _label_studio_url(reference: str, host: MediaHost | None) -> str:
    if host is None and is_media_path(reference):
        raise MediaError(
            f"{shown_url(reference)} lies at Label Studio, whose address is not known; set "
            "STEERSEG_LABEL_STUDIO_URL"
        )
    url = None if host is None else host.resolve(reference)
    if url is None:
        raise MediaRefusedError(
            f"{reference[:200]!r} is neither a URL nor a path at Label Studio (/data/upload/..., "
            "/data/local-files/?d=...); paths of this machine are only read below the folders that the "
            "backend's settings allow"
        )
    return url


def _cloud_url(uri: str, host: MediaHost | None, task_id: int | None) -> str:
    if host is None or task_id is None:
        raise MediaError(
            f"{uri} lies in cloud storage, which Label Studio hands out, but its address is not known; set "
            "STEERSEG_LABEL_STUDIO_URL, or name the bucket in STEERSEG_CLOUD_ROOTS"
        )
    return host.cloud_url(uri, task_id)


def _refuse_web_page(path: Path, url: str) -> None:
    """Say at once that a web page (a sign-in form, most often) is not media."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise MediaError(
            f"{shown_url(url)} is a web page, not a media file; give the address of the file itself, readable "
            "without signing in"
        )


def _image_suffix(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return ".webp"
    if start.startswith(b"BM"):
        return ".bmp"
    return ".tif" if start.startswith((b"II*\0", b"MM\0*")) else None
