"""The demo's vision-language model: a tiny Qwen2.5-VL, its weight files, and its folder in the preset.

The architecture is the real one (``Qwen2_5_VLForConditionalGeneration``); only the widths are small. All
vision blocks attend over the whole frame: at the demo's token budgets a frame is 960 patches at most, and
windows would save nothing. ``rope_theta`` is small because M-RoPE gives the width the lowest frequencies of a
head: with Qwen's million, neighbouring columns of a 20-column grid would differ by 0.02 degrees.

Command: ``python -m tools.demo_models.lvlm export --weights DIR`` turns the fp32 weight files that training wrote
into the preset's bfloat16 shards.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import nn

from steerseg.demo.sheet import ASSETS
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import write_json, write_tensors

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

PRESET_FOLDER = ASSETS.parent / "weights" / "lvlm"
"""Folder of the demo preset's vision-language model, in Hugging Face layout."""

SECOND_PER_GRID = 1.0
"""The ``second_per_grid_ts`` of every video pass. With two tokens a second the temporal position grows by 2
per frame pair, whatever the clip's frame rate: the eight keyframes always get positions 0, 2, 4, 6."""

TOKENS_PER_SECOND = 2
PATCH = 14
MERGE = 2
TEMPORAL_PATCH = 2
CELL = PATCH * MERGE
"""Pixels of one visual token's side."""

VIDEO_TOKENS = 64
"""Most visual tokens of a frame pair in the video pass, as ``weights/preset.json`` says."""

FRAME_SCALE = 2
"""The frame grid has this many times the video grid's rows and columns."""

SHARD_BYTES = 13 * 2**20


def demo_config(vocabulary: int, special: dict[str, int], *, tiny: bool = False) -> Qwen2_5_VLConfig:
    """The configuration of the demo's model.

    Args:
        vocabulary: Number of entries of the tokenizer.
        special: Ids of the special tokens by their text.
        tiny: A model of a few ten thousand parameters for tests.
    """
    from transformers import Qwen2_5_VLConfig

    width, depth, layers, heads, inner = (32, 2, 4, 2, 48) if tiny else (256, 8, 8, 4, 512)
    head = width // heads
    band = head // 2
    temporal = band // 4
    vertical = (band - temporal) // 2
    end = special["<|im_end|>"]
    pad = special["<|endoftext|>"]
    return Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        text_config={
            "model_type": "qwen2_5_vl_text",
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 50.0,
                "mrope_section": [temporal, vertical, band - temporal - vertical],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        vision_config={
            "model_type": "qwen2_5_vl_vision",
            "depth": depth,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_heads": heads,
            "out_hidden_size": width,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "tokens_per_second": TOKENS_PER_SECOND,
            "window_size": 8 * CELL,
            "fullatt_block_indexes": list(range(depth)),
        },
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(config: Qwen2_5_VLConfig, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A model with fresh weights in float32.

    Linear layers start at the variance that keeps their output's scale, those that write to the residual
    stream at less the deeper the stack is: the stock 0.02 is made for layers ten times as wide.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    depths = {"visual": config.vision_config.depth, "language_model": config.text_config.num_hidden_layers}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                if name == "lm_head":  # tied to the embedding
                    continue
                fan_in = module.weight[0].numel()
                std = 0.8 / math.sqrt(fan_in)
                if name.endswith(("attn.proj", "o_proj", "down_proj")):
                    std /= math.sqrt(2 * depths["visual" if ".visual." in f".{name}." else "language_model"])
                nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.04)
    model.tie_weights()
    return model


def own_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights by name, each once (the tied output layer is the embedding)."""
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def save_weights(
    state: dict[str, torch.Tensor],
    folder: Path,
    dtype: torch.dtype,
    *,
    stem: str = "model",
    index: bool = True,
) -> list[Path]:
    """Write weights as shards of at most 13 MiB, with or without the index that ``from_pretrained`` reads.

    A reader never sees half a file.

    Raises:
        ArtefactError: The disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = total = 0
    for name, tensor in state.items():
        value = tensor.to("cpu", dtype).contiguous()
        count = value.numel() * value.element_size()
        if shards[-1] and size + count > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += count
        total += count
    paths, homes = [], {}
    for number, shard in enumerate(shards, start=1):
        path = folder / f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(path, shard, {"format": "pt"})
        paths.append(path)
        homes.update(dict.fromkeys(shard, path.name))
    if index:
        content = {"metadata": {"total_size": total}, "weight_map": homes}
        write_json(folder / f"{stem}.safetensors.index.json", content)
    for old in folder.glob(f"{stem}-*-of-*.safetensors"):
        if old not in paths:
            old.unlink()
    return paths


def load_weights(folder: Path, *, stem: str = "model") -> dict[str, torch.Tensor]:
    """Read all shards that :func:`save_weights` wrote, in the type they have on disk."""
    paths = sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    expected = int(paths[0].stem.rsplit("-", 1)[1]) if paths else 1
    if len(paths) != expected:
        raise ConfigError(
            f"{folder} holds {len(paths)} of {expected} weight files named {stem}-*.safetensors; "
            "name the folder that training wrote, with all its files"
        )
    state: dict[str, torch.Tensor] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                state[name] = file.get_tensor(name)
    return state


def load_into(model: nn.Module, state: dict[str, torch.Tensor], *, source: Path) -> None:
    """Copy weights into a model's parameters, whatever their types. Names and shapes must be the same."""
    parameters = dict(model.named_parameters())
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())[:5]
        raise ConfigError(f"the weights in {source} are of another model: {odd} are on one side only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != state[name].shape:
                raise ConfigError(
                    f"{source}: {name} has the shape {tuple(state[name].shape)}, expected "
                    f"{tuple(parameter.shape)}; the weights are of another configuration"
                )
            parameter.copy_(state[name])


def load_config(folder: Path = PRESET_FOLDER) -> Qwen2_5_VLConfig:
    """The configuration that lies beside the tokenizer."""
    from transformers import Qwen2_5_VLConfig

    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no config.json; run `python -m tools.demo_models.tokenizer` first")
    return Qwen2_5_VLConfig.from_pretrained(folder)


def export(weights: Path, folder: Path = PRESET_FOLDER) -> list[Path]:
    """Turn trained weight files into the preset's: bfloat16 shards beside the configuration.

    Args:
        weights: Folder with the ``model-*`` files that training wrote.
        folder: Folder of the preset with configuration and processor.
    """
    model = build_model(load_config(folder))
    load_into(model, load_weights(weights), source=weights)
    return save_weights(own_state(model), folder, torch.bfloat16)


def main() -> None:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("export", help="training's weight files -> the preset's bfloat16 shards")
    command.add_argument("--weights", type=Path, required=True)
    command.add_argument("--folder", type=Path, default=PRESET_FOLDER)
    options = parser.parse_args()
    for path in export(options.weights, options.folder):
        print(f"{path} {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
