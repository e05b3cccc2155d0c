"""Names of a preset's versions and models, derived from their content."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ValidationError

from steerseg.errors import ConfigError
from steerseg.presets import BUILT_IN, PRESET_FILE, find_preset, load_preset

_VERSION = re.compile(r"steerseg-[^-]+-(?P<preset>.+?)-[0-9a-f]{8}(?:\+|$)")
_HASHED_FILE_BYTES = 256 * 1024 * 1024  # larger weights count by their size


def preset_version(name_or_folder: str) -> str:
    """Name the version of predictions by a preset: the package, the preset and its content.

    The content counts, so that new weights of a preset are asked for anew by Label Studio. Models that are
    named by a hub id count by that id.

    Raises:
        ConfigError: The preset cannot be used.
    """
    folder = find_preset(name_or_folder)
    preset = load_preset(folder)
    card = (folder / PRESET_FILE).read_bytes()
    digest = _digest_files(folder, first=card, without=PRESET_FILE)
    return f"steerseg-{version('steerseg')}-{preset.name}-{digest[:8]}"


def reads_expressions(version: str) -> bool:
    """Whether the preset of a version has a language model; one that is not built in is taken to have one.

    Args:
        version: As :func:`preset_version` names it, whatever follows.
    """
    named = _VERSION.match(version)
    preset = BUILT_IN.get(named["preset"]) if named else None
    return preset is None or load_preset(preset).lvlm is not None


def model_fingerprint(preset: str) -> str:
    """Name the vision-language model of a preset: its hub id, a digest of its folder, or that there is none.

    Raises:
        ConfigError: The preset cannot be used.
    """
    return weights_fingerprint(load_preset(find_preset(preset)).lvlm)


def weights_fingerprint(name: str | None) -> str:
    """The same of a model by its hub id or folder; ``None`` for no language model."""
    if name is None:
        return "no language model"
    folder = Path(name)
    if not folder.is_dir():
        return name
    return f"{folder.name}-{_digest_files(folder)[:16]}"


def model_width(preset: str) -> int | None:
    """Width of the embeddings of a preset's vision-language model, which its soft prompts must have.

    It is read from the model's configuration; ``None`` where that is not on this machine, or there is no model.

    Raises:
        ConfigError: The preset cannot be used.
    """
    name = load_preset(find_preset(preset)).lvlm
    if name is None:
        return None
    cached = Path(name) / "config.json"
    if not cached.is_file():
        from huggingface_hub import try_to_load_from_cache  # takes its time, and few need it

        found = try_to_load_from_cache(name, "config.json") if not Path(name).is_dir() else None
        if not isinstance(found, str):
            return None
        cached = Path(found)
    try:
        return _ModelConfig.model_validate_json(cached.read_bytes()).width
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{cached} does not say the model's width: {error}") from error


class _ModelConfig(BaseModel):
    """The part of a model's ``config.json`` that says its width: of the whole, or of its language model."""

    hidden_size: int | None = None
    text_config: _ModelConfig | None = None

    @property
    def width(self) -> int | None:
        """Width of the embeddings of text."""
        return self.hidden_size if self.text_config is None else self.text_config.width or self.hidden_size


def _digest_files(folder: Path, *, first: bytes = b"", without: str | None = None) -> str:
    """Digest of the files of a folder: their names, sizes and contents.

    Args:
        folder: The folder, with all that is below it.
        first: What is digested before them.
        without: Name of files that do not count.
    """
    digest = hashlib.sha256(first)
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != without):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}".encode())
        if size <= _HASHED_FILE_BYTES:
            digest.update(file.read_bytes())
    return digest.hexdigest()
