"""What a connected project says to its annotators fits what its backend can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend.cli.introduction import description, instructions
from ml_backend.label_studio.config import parse_controls
from ml_backend.models.fingerprint import preset_version, reads_expressions
from steerseg.presets import BUILT_IN, load_preset

CONFIGS = sorted((Path(__file__).parents[3] / "label_config").glob("*.xml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_without_a_language_model_nobody_is_told_to_type_what_to_track(config: Path) -> None:
    controls = parse_controls(config.read_text(encoding="utf-8"))
    for text in (description, instructions):
        assert "Type what to track" in text(controls)
        alone = text(controls, reads_expressions=False)
        assert "Type what to track" not in alone
        assert ("Draw a box" if controls.frames is None else "Click ") in alone


@pytest.mark.parametrize("name", ["demo", "clicks-edgetam"])
def test_a_version_says_whether_its_preset_has_a_language_model(name: str) -> None:
    expected = load_preset(BUILT_IN[name]).lvlm is not None
    for version in (preset_version(name), f"{preset_version(name)}+r2-0123abcd"):
        assert reads_expressions(version) is expected


@pytest.mark.parametrize("version", ["", "someone's own", "steerseg-1.0-own-clicks-01234567"])
def test_a_preset_that_is_not_built_in_is_taken_to_have_one(version: str) -> None:
    assert reads_expressions(version)
