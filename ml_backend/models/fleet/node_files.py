"""On a host of the cluster: media and soft prompts by digest, in a cache that its workers share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import requests

from ml_backend.label_studio.media_cache import MediaCache
from ml_backend.models.fleet.messages import MediaPart, MediaSource, PackedRequest
from ml_backend.models.fleet.packing import unpacked
from ml_backend.models.messages import ModelRequest
from steerseg.errors import ConfigError, VideoError
from steerseg.prompt_files import FILES
from steerseg.runtime.artefacts import building_folder, explained, write_bytes

_BLOCK = 1 << 20
_WAIT = 20.0  # seconds that one wait for the network may take
_GRACE = 60.0  # seconds between the arrival of a file and the moment when its worker holds it, at most
_ATTEMPTS = 3
_MOST_PROMPTS = 64  # soft prompts that are kept; one is below 4 MiB
_PROMPTS_SECONDS = 3600.0  # since their last use, in which they stay nevertheless


class NodeFiles:
    """The files that requests need, on this host. Processes may share a cache.

    Args:
        source: Where media come from, and where they are kept.
    """

    def __init__(self, source: MediaSource) -> None:
        self._source = source
        self._folder = source.cache.expanduser()
        self._cache = MediaCache(self._folder, source.cache_bytes, grace=_GRACE)

    @contextlib.contextmanager
    def lend(self, packed: PackedRequest, go_on: Callable[[], None]) -> Iterator[ModelRequest]:
        """Inside, everything that a request needs is here and stays: gives the request with the paths of this host.

        Args:
            packed: The request.
            go_on: Called often while media are fetched; may raise to stop.

        Raises:
            VideoError: Its media cannot be had.
            ConfigError: Soft prompts have names that none have.
            ArtefactError: The disk is full or not writable.
        """
        prompts = {one.digest: self._keep_prompts(one.digest, one.files) for one in packed.prompts}
        if packed.media is None:
            yield unpacked(packed.request, None, prompts)
            return
        for attempt in range(1, _ATTEMPTS + 1):
            path = self._fetch(packed.media, go_on)
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(self._cache.hold(path))
                except FileNotFoundError:  # evicted between the two, by another worker of this host
                    if attempt == _ATTEMPTS:
                        raise VideoError(
                            "the host's cache of media is too small for what its workers need; raise "
                            "STEERSEG_MEDIA_CACHE_MIB"
                        ) from None
                    continue
                yield unpacked(packed.request, path, prompts)
                return

    def _fetch(self, parts: tuple[MediaPart, ...], go_on: Callable[[], None]) -> Path:
        """The file, or the folder of its frames."""
        files = [self._cache.content(part.digest) or self._fetch_part(part, go_on) for part in parts]
        if len(parts) == 1 and not parts[0].name:
            return files[0]
        return self._cache.folder(files, [part.name for part in parts])

    def _fetch_part(self, part: MediaPart, go_on: Callable[[], None]) -> Path:
        if part.size > self._source.max_bytes:
            raise VideoError(
                f"the video has {part.size} bytes, at most {self._source.max_bytes} are accepted"
            )
        with self._cache.temporary() as temporary:
            digest = hashlib.sha256()
            size = 0
            end = time.monotonic() + self._source.timeout
            with explained(self._folder), temporary.open("wb") as file:
                for block in self._blocks(part.digest):
                    go_on()
                    if time.monotonic() > end:
                        raise VideoError(f"a video did not come from {self._shown} in time; ask again")
                    size += len(block)
                    if size > part.size:
                        break
                    digest.update(block)
                    file.write(block)
            if size != part.size or digest.hexdigest() != part.digest:
                raise VideoError(
                    f"what {self._shown} gave for a video is not what the server means (by its digest); ask again"
                )
            return self._cache.keep_content(temporary, part.digest)

    @property
    def _shown(self) -> str:
        return self._source.location

    def _blocks(self, digest: str) -> Iterator[bytes]:
        """The content, as its source has it."""
        location = self._source.location
        if location.startswith(("http://", "https://")):
            yield from self._blocks_of_server(f"{location}/media/{digest}")
        elif "://" in location:
            yield from self._blocks_of_bucket(f"{location}/{digest}")
        else:
            yield from self._blocks_of_folder(Path(location) / digest)

    def _blocks_of_server(self, url: str) -> Iterator[bytes]:
        headers = {"Authorization": f"Bearer {self._source.token}", "Accept-Encoding": "identity"}
        try:
            with requests.get(
                url, headers=headers, stream=True, timeout=_WAIT, allow_redirects=False
            ) as answer:
                if answer.status_code != 200:
                    raise VideoError(
                        f"the server refused a video to this host ({answer.status_code} from {self._shown}); ask "
                        "again, and see that STEERSEG_CLUSTER_MEDIA names the server as hosts reach it"
                    )
                yield from answer.iter_content(_BLOCK)
        except requests.RequestException as error:
            raise VideoError(
                f"a video could not be fetched from {self._shown} ({type(error).__name__}); see that "
                "STEERSEG_CLUSTER_MEDIA names the server as hosts of the cluster reach it"
            ) from None

    def _blocks_of_bucket(self, url: str) -> Iterator[bytes]:
        try:
            import fsspec

            with fsspec.open(url, "rb") as file:
                while block := file.read(_BLOCK):
                    yield block
        except ImportError as error:
            raise ConfigError(
                f"{self._shown} cannot be read on this host ({error}); install the extra `cloud` there"
            ) from error
        except Exception as error:  # each library of a storage has errors of its own
            raise VideoError(
                f"a video could not be read from {self._shown} on this host ({type(error).__name__}); see that it has "
                "the credentials"
            ) from error

    def _blocks_of_folder(self, path: Path) -> Iterator[bytes]:
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block
        except OSError as error:
            raise VideoError(
                f"a video could not be read from {self._shown} on this host ({error.strerror}); see that the folder "
                "of STEERSEG_CLUSTER_MEDIA is mounted there"
            ) from error

    def _keep_prompts(self, digest: str, files: Mapping[str, bytes]) -> Path:
        """The folder of soft prompts; their digest is checked when they are loaded."""
        if not set(files) <= set(FILES) or not digest.isalnum():
            raise ConfigError(
                "soft prompts came with names that none have; is the server of another version?"
            )
        folder = self._folder / "prompts" / digest
        if not folder.is_dir():
            with building_folder(folder) as building:
                for name, content in files.items():
                    write_bytes(building / name, content)
            self._drop_old_prompts(folder.parent)
        os.utime(folder)
        return folder

    def _drop_old_prompts(self, folder: Path) -> None:
        """Keep of the soft prompts those that were used last."""

        def used(path: Path) -> float:
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_mtime
            return 0.0

        oldest = time.time() - _PROMPTS_SECONDS
        for path in sorted(folder.iterdir(), key=used)[:-_MOST_PROMPTS]:
            if used(path) < oldest:
                shutil.rmtree(path, ignore_errors=True)
