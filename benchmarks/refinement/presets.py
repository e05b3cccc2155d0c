"""Presets that differ from another in how refinements are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerseg.errors import ConfigError
from steerseg.presets import PRESET_FILE, find_preset, load_preset, portable_card
from steerseg.runtime.artefacts import write_json


def with_recipe(preset: str | Path, recipe: Mapping[str, Any], folder: Path, **fields: Any) -> Path:
    """Write a preset with another recipe; its models stay where they are.

    Args:
        preset: Name or folder of the preset that it differs from.
        recipe: Fields of :class:`steerseg.config.RefinementRecipe`; those of its ``training`` may be some.
        folder: Where the preset is written.
        fields: Further fields of :class:`steerseg.presets.Preset` that differ.

    Returns:
        ``folder``.

    Raises:
        ConfigError: There is no such preset, or the recipe or a field is not one.
    """
    card = portable_card(load_preset(find_preset(preset)))
    old: dict[str, Any] = card.get("refinement", {})
    training = {**old.get("training", {}), **recipe.get("training", {})}
    card |= {"refinement": {**old, **recipe, "training": training}, **fields}
    try:
        write_json(folder / PRESET_FILE, card)
    except TypeError as error:
        raise ConfigError(f"the recipe cannot be written as JSON: {error}") from error
    _ = load_preset(folder).recipe  # says what is wrong with it
    return folder
