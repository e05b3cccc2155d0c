"""A preset of one's own: another preset with other soft prompts."""

from __future__ import annotations

from pathlib import Path

from steerseg.errors import ConfigError
from steerseg.presets import PRESET_FILE, Preset, portable_card
from steerseg.runtime.artefacts import write_json
from steerseg.soft_prompts import SoftPrompts

PROMPTS_FOLDER = "soft_prompts"


def write_preset(folder: Path, base: Preset, prompts: SoftPrompts, name: str) -> None:
    """Write a preset folder.

    Models are named, not copied: by hub id as in ``base``, or by their full path where they are folders.

    Args:
        folder: The preset folder; ``--preset`` takes it afterwards.
        base: As :func:`steerseg.presets.load_preset` returns it.
        prompts: Its soft prompts.
        name: Name of the preset in results and versions.

    Raises:
        ArtefactError: The disk is full or not writable.
    """
    prompts.save(folder / PROMPTS_FOLDER)
    card = portable_card(base)
    write_json(folder / PRESET_FILE, {**card, "name": name, "soft_prompts": PROMPTS_FOLDER})


def refuse_other_preset(folder: Path) -> None:
    """Raise ``ConfigError`` where a folder holds a preset that no training has begun in."""
    if (folder / PRESET_FILE).is_file():
        raise ConfigError(f"{folder} holds a preset already; choose another -o")
