"""The published tokenizer, template and processor around a small random model, where their files are at hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
import transformers

_CHECKPOINT = "qwen2.5-vl-7b"
_PROCESSOR_FILES = (
    "chat_template.json",
    "merges.txt",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
)


def checkpoint_files() -> Path | None:
    """The folder of Qwen2.5-VL-7B's files without its weights; ``None`` where they are not there.

    The environment variable ``STEERSEG_FIXTURES`` names the folder above it; ``../shared/fixtures`` beside the
    repository where left out.
    """
    beside = Path(__file__).parents[2].parent / "shared" / "fixtures"
    folder = Path(os.environ.get("STEERSEG_FIXTURES") or beside) / _CHECKPOINT
    return folder if (folder / "tokenizer_config.json").is_file() else None


def save_small_checkpoint(folder: Path, files: Path, *, layers: int = 4) -> None:
    """Write a checkpoint whose processor and vocabulary are the published ones, and whose model is small and random.

    Args:
        folder: Where it is written.
        files: See :func:`checkpoint_files`.
        layers: Of the text model.
    """
    config = transformers.Qwen2_5_VLConfig.from_pretrained(files)
    text, vision = config.text_config, config.vision_config
    text.update(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "layer_types": ["full_attention"] * layers,
            "rope_parameters": {**text.rope_parameters, "mrope_section": [2, 1, 1]},
        }
    )
    vision.update(
        {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        }
    )
    torch.manual_seed(0)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2 if "embed" not in name else 1.0)
    model.generation_config = transformers.GenerationConfig.from_pretrained(files)
    model.save_pretrained(folder)
    for name in _PROCESSOR_FILES:
        shutil.copyfile(files / name, folder / name)
