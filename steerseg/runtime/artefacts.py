"""Files that are written as a whole or not at all, whatever happens meanwhile.

Content goes to a partial file in the same folder, is synchronised to the disk, and takes its name in one step; the
folder is synchronised last. A kill or a power cut leaves the old file or the new one, a full disk the old one and a
clear error. Partial files of a process that died are removed by :func:`remove_partials`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerseg.errors import ArtefactError

if TYPE_CHECKING:  # a server writes files without loading torch
    import torch

_PREFIX = ".partial-"


def write_bytes(path: Path, content: bytes) -> None:
    """Write one file. It is on disk when this returns. Missing folders are made.

    Raises:
        ArtefactError: The disk is full or not writable; an earlier file stays as it was.
    """
    write_together({path: content})


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; see :func:`write_bytes`."""
    write_bytes(path, json_bytes(value))


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors, from whatever device, as one safetensors file; see :func:`write_bytes`."""
    write_bytes(path, tensor_bytes(tensors, metadata))


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: none takes its name before all are on disk.

    A kill in the short moment between the first and the last name can still leave an old file beside a new one.
    Readers of a pair compare a digest; files that must never be mixed go through :func:`building_folder`.

    Raises:
        ArtefactError: The disk is full or not writable; earlier files stay as they were.
    """
    partials: list[tuple[Path, Path]] = []
    with explained(next(iter(files)).parent), contextlib.ExitStack() as left:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = _partial_of(path)
            left.callback(partial.unlink, missing_ok=True)
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partials.append((partial, path))
        for partial, path in partials:
            os.replace(partial, path)
        for folder in {path.parent for path in files}:
            _sync_folder(folder)


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a complete file of the same file system its name. It is on disk when this returns.

    Raises:
        ArtefactError: The disk is full or not writable.
    """
    with explained(path.parent):
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def building_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into; it takes its name when the block ends without an error.

    A folder that is there already stays, and the new one is dropped: a folder's name stands for its content.

    Raises:
        ArtefactError: The disk is full or not writable.
    """
    with explained(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = _partial_of(folder)
        building.mkdir()
    try:
        yield building
        with explained(folder.parent):
            _sync_folder(building)
            try:
                os.rename(building, folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            _sync_folder(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """The name of a folder to work in, below ``parent``; what is there when the block ends is removed.

    What a process that died leaves of it goes by :func:`remove_partials`.
    """
    scratch = _partial_of(parent / "scratch")
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_partials(folder: Path, *, below: bool = False, older_than: float = 0.0) -> None:
    """Remove partial files of processes that died from a folder. Nothing may write to them meanwhile.

    Args:
        folder: The folder; it may be missing.
        below: Whether folders below it are looked at as well.
        older_than: Seconds since their last change, for folders that others may write to.
    """
    pattern = f"{_PREFIX}*"
    found = list(folder.rglob(pattern) if below else folder.glob(pattern)) if folder.is_dir() else []
    for left in found:
        with contextlib.suppress(FileNotFoundError):  # its folder was one and is gone already
            if time.time() - left.stat().st_mtime < older_than:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """A value as indented JSON with sorted keys."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def tensor_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors, from whatever device, in the safetensors format."""
    from safetensors.torch import save

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(save(on_cpu, dict(metadata or {}) or None))


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn errors of the file system about a folder into a message with a remedy.

    Raises:
        ArtefactError: In place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise ArtefactError(f"cannot write to {folder}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    """Explain an error of the file system, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: the disk is full; free some space and try again"
    if error.errno == errno.EFBIG:
        return f"{error.strerror}: raise the limit on file sizes (ulimit -f)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}; check who owns the folder and that it is writable"
    return f"{error.strerror or error}; check the disk"


def _partial_of(path: Path) -> Path:
    # Not by `tempfile`, whose files nobody else may read.
    return path.with_name(f"{_PREFIX}{path.name}-{secrets.token_hex(6)}")


def _sync_folder(folder: Path) -> None:
    """Synchronise a folder's names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
