from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steerseg.errors import ConfigError
from steerseg.presets import BUILT_IN, find_preset, load_preset


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_presets_are_valid(name: str) -> None:
    preset = load_preset(find_preset(name))
    assert preset.name == name
    assert preset.config.keyframes == preset.keyframes
    assert "{" not in preset.texts.grounding_question("the dog", ("red",))


@pytest.mark.parametrize(
    ("name", "lvlm", "layers", "video_tokens", "frame_tokens"),
    [
        ("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", 28, 400, None),
        ("qwen2-vl-7b", "Qwen/Qwen2-VL-7B-Instruct", 28, 400, None),
        ("llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", 28, 14**2, 9 * 27**2),
        ("internvl3-8b", "OpenGVLab/InternVL3-8B-hf", 28, 16**2, 12 * 16**2),
        ("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", 36, 400, None),
    ],
)
def test_presets_name_the_papers_models_layers_and_budgets(
    name: str, lvlm: str, layers: int, video_tokens: int, frame_tokens: int | None
) -> None:
    """The upper half of the layers, 16 keyframes; 400 tokens a slice, or 9 and 12 tiles a picture (DecAF)."""
    preset = load_preset(find_preset(name))
    assert (preset.lvlm, preset.sam2) == (lvlm, "facebook/sam2-hiera-large")
    assert preset.layers == tuple(range(layers // 2, layers))
    assert (preset.keyframes, preset.frame_batch) == (16, None)
    assert (preset.video_tokens, preset.frame_tokens) == (video_tokens, frame_tokens)
    assert preset.quantise is None
    assert name in BUILT_IN


@pytest.mark.parametrize(
    ("name", "lvlm", "sam2", "layers"),
    [
        ("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", "facebook/sam2.1-hiera-base-plus", 36),
        ("qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", "facebook/sam2.1-hiera-small", 28),
        ("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", "facebook/sam2.1-hiera-base-plus", 36),
        ("internvl3-2b", "OpenGVLab/InternVL3-2B-hf", "facebook/sam2.1-hiera-small", 28),
    ],
)
def test_small_presets_take_the_choices_of_their_familys_large_one(
    name: str, lvlm: str, sam2: str, layers: int
) -> None:
    preset = load_preset(find_preset(name))
    assert (preset.lvlm, preset.sam2) == (lvlm, sam2)
    assert preset.layers == tuple(range(layers // 2, layers))
    large = load_preset(find_preset(f"{name.rsplit('-', 1)[0]}-{'7b' if 'qwen2.5' in name else '8b'}"))
    assert preset.config == large.config
    assert preset.segmenter_config == large.segmenter_config
    assert (preset.video_tokens, preset.frame_tokens) == (large.video_tokens, large.frame_tokens)


def test_the_preset_of_a_hybrid_model_takes_the_layers_that_attend_in_its_upper_half() -> None:
    preset, relative = (load_preset(find_preset(name)) for name in ("qwen3.5-4b", "qwen3-vl-4b"))
    assert preset.lvlm == "Qwen/Qwen3.5-4B"
    assert preset.layers == tuple(layer for layer in range(16, 32) if layer % 4 == 3)
    assert preset.config == relative.config
    assert (preset.sam2, preset.video_tokens) == (relative.sam2, relative.video_tokens)


def test_the_preset_of_a_family_in_no_figure_takes_the_choices_of_its_peer() -> None:
    preset, peer = (load_preset(find_preset(name)) for name in ("smolvlm2-2.2b", "qwen3-vl-2b"))
    assert preset.lvlm == "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
    assert preset.layers == tuple(range(12, 24))
    assert (preset.config, preset.segmenter_config) == (peer.config, peer.segmenter_config)
    assert (preset.sam2, preset.keyframes) == (peer.sam2, peer.keyframes)
    assert (preset.video_tokens, preset.frame_tokens) == (9**2, 4**2 * 9**2)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"demo, qwen2\.5-vl-7b"):
        find_preset("nonsense")


def test_a_misspelt_field_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text(json.dumps({"name": "x", "lvlm": "a", "sam2": "b", "keyframe": 3}))
    with pytest.raises(ConfigError, match="keyframe"):
        load_preset(tmp_path)
    (tmp_path / "preset.json").write_text("{")
    with pytest.raises(ConfigError, match="not a valid preset"):
        load_preset(tmp_path)


def test_misspelt_pipeline_fields_and_prompts_are_errors(tmp_path: Path) -> None:
    card = {"name": "x", "lvlm": "a", "sam2": "b"}
    (tmp_path / "preset.json").write_text(json.dumps({**card, "pipeline": {"head": "mean"}}))
    with pytest.raises(ConfigError, match="PipelineConfig"):
        _ = load_preset(tmp_path).config
    (tmp_path / "preset.json").write_text(json.dumps({**card, "prompts": {"ground": "?"}}))
    with pytest.raises(ConfigError, match="grounding"):
        _ = load_preset(tmp_path).texts


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("new_share", 1.5, "new_share of a refinement is 1.5; expected a share"),
        ("champion_share", 1, "nothing is learned"),
        ("batch", 0, "expected 1 or more"),
    ],
)
def test_a_recipe_out_of_range_is_an_error(tmp_path: Path, field: str, value: float, told: str) -> None:
    card = {"name": "x", "lvlm": "a", "sam2": "b", "refinement": {field: value}}
    (tmp_path / "preset.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match=told):
        _ = load_preset(tmp_path).recipe


def test_folders_beside_the_file_win_over_hub_ids(tmp_path: Path) -> None:
    (tmp_path / "lvlm").mkdir()
    (tmp_path / "preset.json").write_text(
        json.dumps({"name": "x", "lvlm": "lvlm", "sam2": "facebook/sam2-hiera-tiny"})
    )
    preset = load_preset(tmp_path)
    assert preset.lvlm == str(tmp_path / "lvlm")
    assert preset.sam2 == "facebook/sam2-hiera-tiny"


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, steerseg; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
