"""8- and 4-bit language models on bitsandbytes' CPU backend: they load, answer, and are steered."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steerseg.attention.rollout import reference_rollout, streaming_rollout
from steerseg.config import Quantisation
from steerseg.errors import ModelError
from steerseg.grounding import rolled_map
from steerseg.lvlm import LVLM
from steerseg.presets import open_preset
from steerseg.soft_prompts import SoftPrompts
from tests.support.tiny_lvlms import TINY, eager_attentions, save_tiny_lvlm

bitsandbytes = pytest.importorskip("bitsandbytes")

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TEXTS = ["where?", "where is the other one?"]


@pytest.fixture(scope="module", params=sorted(TINY))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    save_tiny_lvlm(path, request.param)
    return path


def layers_of(lvlm: LVLM) -> tuple[int, ...]:
    """Two layers of a rollout."""
    return TINY[lvlm.family.model_type].layers[-2:]


def load(folder: Path, quantise: Quantisation | None) -> LVLM:
    return LVLM.from_pretrained(str(folder), device=CPU, dtype=torch.float32, quantise=quantise)


def pictures(lvlm: LVLM) -> torch.Tensor:
    height, width = lvlm.family.sizes(60, 90, video_tokens=6, frame_tokens=24).picture
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if "Linear" in type(module).__name__}


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_only_the_text_model_is_quantised(folder: Path, quantise: Quantisation) -> None:
    lvlm = load(folder, quantise)
    expected = {"8bit": bitsandbytes.nn.Linear8bitLt, "4bit": bitsandbytes.nn.Linear4bit}[quantise]
    layers = linear_layers(lvlm.model)
    inside = {id(module) for module in lvlm.text_model.modules()}
    text = {name for name, layer in layers.items() if id(layer) in inside}
    assert {type(layers[name]) for name in text} == {expected}
    # What maps are made of, and the words of the answer.
    assert {type(layers[name]) for name in layers.keys() - text} == {nn.Linear}
    assert lvlm.version == f"{folder.name} ({quantise})"
    assert not any(parameter.requires_grad for parameter in lvlm.model.parameters())
    # 8-bit products ask the device for outliers, which ends a capture.
    assert lvlm.reader.prefix_reader.calls.enabled == lvlm.decoder.captures == (quantise == "4bit")


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_queries_and_keys_are_what_dequantising_layers_give(folder: Path, quantise: Quantisation) -> None:
    """Rotation keeps the length of each head's vector, so lengths are compared with the layers' outputs."""
    lvlm = load(folder, quantise)
    layers = layers_of(lvlm)
    attention: Any = lvlm.text_model.layers[layers[0]].self_attn
    outputs: dict[str, torch.Tensor] = {}
    for name in ("q", "k"):
        layer = getattr(attention, f"{name}_norm", None) or getattr(attention, f"{name}_proj")
        layer.register_forward_hook(lambda module, args, output, name=name: outputs.update({name: output}))
    vision = lvlm.encode_vision(pictures(lvlm), "image")
    with torch.no_grad():
        taken = lvlm.attend(TEXTS, vision, layers=layers)
    for name, kept in (("q", taken.tap.queries), ("k", taken.tap.keys)):
        heads = outputs[name].reshape(*kept[layers[0]].transpose(1, 2).shape)
        assert kept[layers[0]].dtype == torch.float32
        assert torch.allclose(kept[layers[0]].transpose(1, 2).norm(dim=-1), heads.norm(dim=-1), rtol=1e-4)


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_the_rollout_is_that_of_the_quantised_models_attention(folder: Path, quantise: Quantisation) -> None:
    lvlm, eager = load(folder, quantise), load(folder, quantise).model
    eager.set_attn_implementation("eager")
    vision = lvlm.encode_vision(pictures(lvlm), "image")
    with torch.no_grad():
        taken = lvlm.attend(TEXTS, vision, layers=layers_of(lvlm))
        inputs = lvlm.chats.inputs([lvlm.chats.write(text, vision) for text in TEXTS], vision)
        attentions = eager_attentions(eager, inputs)
    got = streaming_rollout(taken, layers_of(lvlm), heads="visual_max")
    for row in range(2):
        live = taken.live[row]
        alone = [attentions[layer][row : row + 1, :, live][..., live] for layer in layers_of(lvlm)]
        expected = reference_rollout(alone, taken.visual[row : row + 1, live], -1, "visual_max")[0]
        # 8-bit layers round activations too: what differs in the last bit may fall to the other side.
        tolerance = 2e-2 if quantise == "8bit" else 1e-5
        assert (got[row, live] - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_quantised_models_answer_and_are_steered_afterwards(folder: Path, quantise: Quantisation) -> None:
    """Gradients reach the soft prompts also after passes that needed none."""
    lvlm = load(folder, quantise)
    vision = lvlm.encode_vision(pictures(lvlm), "image")
    lvlm.answer("what?", vision[:1], max_new_tokens=3)
    prompts = SoftPrompts.from_embedding(lvlm.line_break, 3, seed=0, noise=1.0)
    prompts.frame.requires_grad_()
    maps = rolled_map(lvlm, TEXTS, vision, layers=layers_of(lvlm), heads="visual_max", soft_prompts=prompts)
    (gradient,) = torch.autograd.grad(maps[:, :, 0].sum(), prompts.frame)
    assert torch.isfinite(gradient).all()
    assert gradient.norm() > 0


def test_the_four_bit_model_is_near_the_whole_one(folder: Path) -> None:
    whole, four = load(folder, None), load(folder, "4bit")
    vision = whole.encode_vision(pictures(whole), "image")
    maps = [
        rolled_map(lvlm, TEXTS, vision, layers=layers_of(lvlm), heads="mean", soft_prompts=None).flatten()
        for lvlm in (whole, four)
    ]
    assert torch.corrcoef(torch.stack(maps))[0, 1] > 0.5


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_lvlm(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "steerseg.lvlm.quantised.find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(ModelError, match=r"pip install '\.\[quantised\]'"):
        load(tmp_path, "8bit")


def test_weights_that_were_saved_in_four_bits_load_as_they_are(tmp_path: Path) -> None:
    save_tiny_lvlm(tmp_path / "whole")
    four = load(tmp_path / "whole", "4bit")
    four.model.save_pretrained(tmp_path / "four")
    four.processor.save_pretrained(tmp_path / "four")
    again = load(tmp_path / "four", None)
    assert again.version == "four (4bit)"
    vision = again.encode_vision(pictures(again), "image")
    first, second = (
        rolled_map(lvlm, TEXTS, vision, layers=layers_of(lvlm), heads="mean", soft_prompts=None)
        for lvlm in (four, again)
    )
    assert torch.equal(first, second)


def test_a_preset_is_opened_with_other_weights() -> None:
    preset = open_preset("qwen2.5-vl-7b", quantise="4bit", sam2="facebook/sam2.1-hiera-small")
    assert (preset.quantise, preset.sam2) == ("4bit", "facebook/sam2.1-hiera-small")
    assert open_preset("qwen2.5-vl-7b").quantise is None
