"""The files of a prompt version, without torch: a server gives soft prompts another glossary by itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from steerseg.config import Placement
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import json_bytes, write_together
from steerseg.words.glossary import GLOSSARY_FILE, Glossary

WEIGHTS_FILE = "soft_prompts.safetensors"
CARD_FILE = "soft_prompts.json"
FILES = (WEIGHTS_FILE, CARD_FILE, GLOSSARY_FILE)
"""All files of a version; the last one only where it has a glossary."""


@dataclass(frozen=True)
class CheckedPrompts:
    """What the files of a prompt version hold, after they were checked.

    Attributes:
        rows: Of each matrix; 0 where the glossary alone takes part.
        width: Of each matrix.
        digest: Identity of the version.
        glossary: Its glossary.
    """

    rows: int
    width: int
    digest: str
    glossary: Glossary


class _Card(BaseModel):
    """The part of ``soft_prompts.json`` that a check needs."""

    placement: Placement
    digest: str


def check_prompts(folder: Path) -> CheckedPrompts:
    """Check the files of a prompt version.

    Raises:
        ConfigError: A file is missing or damaged, the matrices are not two of one shape, a number is not finite, or
            the files are not those that the card was written for.
    """
    try:
        matrices = load_file(folder / WEIGHTS_FILE)
        card = _Card.model_validate_json((folder / CARD_FILE).read_bytes())
        frame, video = matrices["frame"], matrices["video"]
    except ValidationError as error:
        wrong = error.errors()[0]
        at = ".".join(map(str, wrong["loc"])) or "the whole"
        raise ConfigError(f"{folder / CARD_FILE} cannot be read: {at}: {wrong['msg']}") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"no soft prompts could be read from {folder}: {error}") from error
    if frame.ndim != 2 or frame.shape != video.shape or {frame.dtype, video.dtype} != {np.dtype(np.float32)}:
        raise ConfigError(
            f"the soft prompts in {folder} are {frame.dtype} {frame.shape} for frames and {video.dtype} {video.shape} "
            "for video; expected two float32 matrices of one shape (tokens, width)"
        )
    if not (np.isfinite(frame).all() and np.isfinite(video).all()):
        raise ConfigError(
            f"the soft prompts in {folder} hold numbers that are not finite; no model can use them"
        )
    glossary = Glossary.load(folder)
    digest = prompts_digest(card.placement, glossary, frame, video)
    if digest != card.digest:
        raise ConfigError(
            f"the soft prompts in {folder} have digest {digest}, but their card says {card.digest}: the files do not "
            "belong together. Restore all of them from one export."
        )
    return CheckedPrompts(frame.shape[0], frame.shape[1], digest, glossary)


def prompts_digest(
    placement: Placement, glossary: Glossary, frame: NDArray[np.float32], video: NDArray[np.float32]
) -> str:
    """A hash of all that proposals depend on: the identity of a prompt version."""
    state = hashlib.sha256(placement.encode())
    state.update(glossary.digest.encode())
    for matrix in (frame, video):
        state.update(np.ascontiguousarray(matrix, dtype=np.float32).tobytes())
    return state.hexdigest()[:16]


def with_glossary(source: Path | None, glossary: Glossary, target: Path) -> str:
    """Write the soft prompts of a folder with another glossary.

    Args:
        source: Folder of soft prompts; ``None`` for a pair without rows, which steers nothing.
        glossary: The glossary.
        target: Folder that is written.

    Returns:
        The digest of what was written.

    Raises:
        ConfigError: The soft prompts cannot be read.
        ArtefactError: The disk is full or not writable.
    """
    nothing = np.zeros((0, 0), dtype=np.float32)
    matrices, placement = {"frame": nothing, "video": nothing}, "before_vision"
    if source is not None:
        try:
            matrices = load_file(source / WEIGHTS_FILE)
            placement = json.loads((source / CARD_FILE).read_bytes())["placement"]
            digest = prompts_digest(placement, glossary, matrices["frame"], matrices["video"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"no soft prompts could be read from {source}: {error}") from error
    else:
        digest = prompts_digest("before_vision", glossary, nothing, nothing)
    files = {
        target / WEIGHTS_FILE: save(matrices),
        target / CARD_FILE: json_bytes({"placement": placement, "digest": digest}),
    }
    if glossary:
        files[target / GLOSSARY_FILE] = glossary.to_bytes()
    write_together(files)
    return digest
