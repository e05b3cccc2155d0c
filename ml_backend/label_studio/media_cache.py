"""Downloaded media on disk: each content once, bounded in size, least recently used out first."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from steerseg.runtime.artefacts import explained, move_into_place
from steerseg.video.download import FetchResult

log = logging.getLogger(__name__)

_GRACE = 15 * 60.0
"""See :class:`MediaCache`, whose server fetches media long before a worker opens them."""
_FRESH = 60.0
"""Seconds in which a cached file is used without asking the server whether it changed."""
_FRESH_UNVALIDATED = 3600.0
"""The same for servers that give nothing to ask with (neither ETag nor Last-Modified)."""
_ABANDONED = 60.0
"""Seconds after which an unfinished file that nobody has locked was left by a process that died."""


class _UrlNote(BaseModel):
    """The content that a URL had, as it is noted on disk."""

    object: str
    etag: str
    last_modified: str
    checked: float


@dataclass(frozen=True)
class CachedFile:
    """A cached file of a URL.

    Attributes:
        path: The file.
        etag: The server's ``ETag``; may be empty.
        last_modified: The server's ``Last-Modified``; may be empty.
        checked: Unix time of the server's last answer.
    """

    path: Path
    etag: str
    last_modified: str
    checked: float

    @property
    def validators(self) -> dict[str, str]:
        """The headers by which a server may answer that this file is current."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.last_modified} if self.last_modified else {}

    def is_fresh(self) -> bool:
        """Whether it may be used without asking the server again."""
        limit = _FRESH if self.etag or self.last_modified else _FRESH_UNVALIDATED
        return 0 <= time.time() - self.checked < limit


class MediaCache:
    """Files by their content, URLs that lead to them, and folders made of them.

    ``objects/`` holds each content once, named by its SHA-256; ``urls/`` says which content a URL had;
    ``folders/`` holds hard links. A file's or folder's time of access is its last use; its time of modification
    stays, by which others know it again. Processes may share a directory: every change is one atomic step.

    Args:
        directory: Made if missing.
        limit: Bytes that the cache is kept below; files used lately, or held, stay nevertheless.
        grace: Seconds after its last use in which a file is never evicted, since somebody may be about to open it.
    """

    def __init__(self, directory: Path, limit: int, *, grace: float = _GRACE) -> None:
        self._grace = grace
        self._objects = directory / "objects"
        self._urls = directory / "urls"
        self._folders = directory / "folders"
        self._temporary = directory / "tmp"
        self._limit = limit
        self._lock = threading.Lock()
        self._size: int | None = None
        for folder in (self._objects, self._urls, self._folders, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)
        for left in self._temporary.iterdir():
            if _modified(left) < time.time() - _ABANDONED:
                with _alone_with(left) as alone:
                    if alone:
                        log.info("an unfinished download of %d bytes was removed", _remove(left))

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """A file to download into; gone at the end unless it was moved."""
        handle, name = tempfile.mkstemp(dir=self._temporary)
        path = Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield path
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    def _note(self, url: str) -> Path:
        return self._urls / (hashlib.sha256(url.encode()).hexdigest() + ".json")

    def find(self, url: str) -> CachedFile | None:
        """The cached file of a URL; ``None`` where its content is not here."""
        return self._read(self._note(url))

    def _read(self, note: Path) -> CachedFile | None:
        try:
            fields = _UrlNote.model_validate_json(note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        path = self._objects / fields.object
        return CachedFile(path, fields.etag, fields.last_modified, fields.checked) if path.is_file() else None

    def keep(self, url: str, temporary: Path, answer: FetchResult) -> CachedFile:
        """Move a complete download to its place.

        Raises:
            ArtefactError: The disk is full or not writable.
        """
        path = self.keep_content(temporary, file_digest(temporary))
        return self.remember(url, path, answer)

    def remember(self, url: str, path: Path, answer: FetchResult) -> CachedFile:
        """Note that a URL has this content now."""
        known = CachedFile(path, answer.etag, answer.last_modified, time.time())
        note = _UrlNote(
            object=path.name, etag=known.etag, last_modified=known.last_modified, checked=known.checked
        )
        # Beside the other notes it could be evicted before it is complete.
        with self.temporary() as temporary, explained(self._urls):
            temporary.write_text(note.model_dump_json(), encoding="utf-8")
            move_into_place(temporary, self._note(url))
        return known

    def confirm(self, url: str, known: CachedFile, answer: FetchResult) -> CachedFile:
        """Note that a URL still has the content of the cached file."""
        # An answer without a body need not repeat what identifies the content.
        answer = replace(
            answer,
            etag=answer.etag or known.etag,
            last_modified=answer.last_modified or known.last_modified,
        )
        return self.remember(url, known.path, answer)

    def use(self, known: CachedFile) -> Path:
        """Mark a file as used now."""
        _touch(known.path)
        return known.path

    def content(self, digest: str) -> Path | None:
        """The file of a content, marked as used now; ``None`` where it is not here.

        Args:
            digest: SHA-256, as 64 hexadecimal digits.
        """
        path = self._objects / digest
        try:
            _touch(path)
        except FileNotFoundError:
            return None
        return path

    def keep_content(self, temporary: Path, digest: str) -> Path:
        """Move a complete file, whose digest was checked, to its place.

        Raises:
            ArtefactError: The disk is full or not writable.
        """
        path = self._objects / digest
        if not path.exists():
            size = temporary.stat().st_size
            move_into_place(temporary, path)
            self._grew(size)
        return path

    @contextlib.contextmanager
    def hold(self, path: Path) -> Iterator[None]:
        """Inside, no process evicts a file or folder of the cache.

        Raises:
            FileNotFoundError: It was evicted before.
        """
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if not os.path.samestat(os.fstat(handle), path.stat()):
                raise FileNotFoundError(f"{path} was evicted, and came again meanwhile")
            yield
        finally:
            os.close(handle)

    def folder(self, files: Sequence[Path], names: Sequence[str]) -> Path:
        """Give the folder that holds these files under these names.

        Raises:
            ArtefactError: The disk is full or not writable.
        """
        digest = hashlib.sha256()
        for file, name in zip(files, names, strict=True):
            content = file.name if file.parent == self._objects else file_digest(file)
            digest.update(f"{name}:{content}\n".encode())
        folder = self._folders / digest.hexdigest()
        with explained(self._folders):
            if not folder.is_dir():
                self._build(folder, files, names)
            _touch(folder)
        return folder

    def _build(self, folder: Path, files: Sequence[Path], names: Sequence[str]) -> None:
        building = Path(tempfile.mkdtemp(dir=self._temporary))
        handle = os.open(building, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for file, name in zip(files, names, strict=True):
                if file.parent == self._objects and _link(file, building / name):
                    continue
                # Not ours, so it may be changed under our feet; or a disk without hard links.
                shutil.copyfile(file, building / name)
                self._grew((building / name).stat().st_size)
            with contextlib.suppress(FileExistsError):
                os.rename(building, folder)
        except OSError:
            if not folder.is_dir():  # someone else may have made it meanwhile
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
            os.close(handle)

    def _grew(self, size: int) -> None:
        with self._lock:
            if self._size is None:
                self._size = self._measure()
            else:
                self._size += size
            if self._size > self._limit:
                self._evict()

    def _measure(self) -> int:
        """Bytes of all files, each content once."""
        seen = {}
        for file in (*self._objects.iterdir(), *self._folders.glob("*/*")):
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                seen[status.st_ino] = status.st_size
        return sum(seen.values())

    def _evict(self) -> None:
        """Remove what was used longest ago until the cache is below its limit, if it can be."""
        before = time.time() - self._grace
        entries = sorted(
            ((_used(path), path) for path in (*self._folders.iterdir(), *self._objects.iterdir())),
            key=lambda entry: (entry[0], entry[1].name),
        )
        self._size = self._measure()
        target = self._limit * 9 // 10  # some room, so that not every new file evicts
        # A file that a folder links to is freed with the folder, so a second pass may find more.
        for used, path in (*entries, *entries):
            if self._size <= target or used > before:
                continue
            with _alone_with(path) as alone:
                if alone and (path.parent == self._folders or _links(path) == 1):
                    self._size -= _remove(path)
        for note in self._urls.iterdir():
            if self._read(note) is None:
                note.unlink(missing_ok=True)
        log.info("media cache: %.0f MiB after eviction", self._size / 2**20)


@contextlib.contextmanager
def _alone_with(path: Path) -> Iterator[bool]:
    """Inside, no living process holds a file or folder; gives whether that is so."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _touch(path: Path) -> None:
    """Note that a file or folder is used now."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _used(path: Path) -> float:
    try:
        return path.stat().st_atime
    except FileNotFoundError:
        return 0.0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _link(file: Path, to: Path) -> bool:
    try:
        os.link(file, to)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> int:
    """Delete a file or folder; returns the bytes that this set free."""
    freed = 0
    for file in list(path.iterdir()) if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            freed += status.st_size if status.st_nlink == 1 else 0
            file.unlink()
    if path.is_dir():
        with contextlib.suppress(OSError):  # someone put a file into it meanwhile
            path.rmdir()
    return freed


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
