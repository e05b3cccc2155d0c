"""Fingerprints of the files that a command wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PIL import Image

from tests.contract.normal import digest, normalised


def fingerprints(folder: Path) -> dict[str, str]:
    """What every file below a folder holds: JSON without times, PNG by pixels and palette, others by bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _fingerprint(path) for path in files}


def _fingerprint(path: Path) -> str:
    if path.suffix == ".json":
        return f"json {digest(normalised(json.loads(path.read_text('utf-8'))))}"
    if path.suffix == ".png":
        with Image.open(path) as image:
            content = [image.mode, *image.size, image.getpalette(), image.tobytes().hex()]
            return f"png {image.mode} {image.width}x{image.height} {digest(content)}"
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
