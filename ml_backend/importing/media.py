"""The folder of imported media: how files in it are named, written and served."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from steerseg.errors import ConfigError, VideoError
from steerseg.video import frame_files


@dataclass(frozen=True)
class MediaFolder:
    """Where media are written, and under which address Label Studio serves them.

    Attributes:
        media_dir: The folder that is written to.
        document_root: Label Studio's document root, which the folder lies below.
    """

    media_dir: Path
    document_root: Path

    def __post_init__(self) -> None:
        if self.document_root not in self.media_dir.parents:
            raise ConfigError(
                f"{self.media_dir} does not lie below Label Studio's document root {self.document_root}; "
                "Label Studio serves only folders below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"
            )

    def url(self, path: Path) -> str:
        """The address of a file below the folder, as tasks name it."""
        return f"/data/local-files/?d={quote(path.relative_to(self.document_root).as_posix())}"


def media_name(source: Path) -> str:
    """A name from the file's own and its content: the same video is written once, two of one name apart."""
    digest = hashlib.sha256()
    for file in frame_files(source) if source.is_dir() else (source,):
        try:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise VideoError(f"{file} cannot be read: {error.strerror}") from None
    stem = source.name if source.is_dir() else source.stem
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()
    return f"{slug[:40] or 'video'}-{digest.hexdigest()[:10]}"


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary path for a file or folder that replaces ``path`` in one step when the block ends well.

    Raises:
        ConfigError: ``path`` cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        building = Path(folder) / path.name
        yield building
        try:
            os.replace(building, path)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror}); remove it, or choose another media folder"
            ) from None
