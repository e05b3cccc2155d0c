"""Loading a language model with 8- or 4-bit weights by bitsandbytes, an optional package.

Only the text model's linear layers are quantised. The vision tower is small beside it, and maps are made of its
features. Nothing else changes: queries and keys are recorded behind the layers that dequantise, and gradients pass
through to the soft prompts.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoConfig, BitsAndBytesConfig

from steerseg.config import Quantisation
from steerseg.errors import ModelError
from steerseg.lvlm.families import family_of


def loading_options(
    name: str, quantise: Quantisation | None, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Options of ``from_pretrained`` beside the name and the precision.

    Args:
        name: Hub id or folder of the model. It may have been saved with quantised weights.
        quantise: How many bits a weight shall have; ``None`` for the weights as they are.
        device: Where the weights go.
        dtype: Precision of the computation, and of all weights that are not quantised.

    Raises:
        ModelError: bitsandbytes is not installed, or the family is not supported.
    """
    config = AutoConfig.from_pretrained(name)
    if quantise is None:
        saved = getattr(config, "quantization_config", None)
        return (
            {} if saved is None else {"device_map": {"": device}}
        )  # such weights cannot be moved afterwards
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise ModelError(
            f"a {quantise} language model needs bitsandbytes and accelerate; install them with "
            "`pip install '.[quantised]'` in the source folder, or leave quantisation out."
        )
    kept = family_of(config.model_type).full_precision
    common = {"llm_int8_skip_modules": [*(f"model.{module}" for module in kept), "lm_head"]}
    if quantise == "8bit":
        how = BitsAndBytesConfig(load_in_8bit=True, **common)
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            **common,
        )
    return {"quantization_config": how, "device_map": {"": device}}


def keep_differentiable(model: Any) -> None:
    """Switch off bitsandbytes' kernel for 4-bit weights on some CPUs, through which no gradient passes.

    It would repack the weights for good, in the first pass without gradients.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def bits_of(model: Any) -> Quantisation | None:
    """How a loaded model is quantised; ``None`` where it is not."""
    if getattr(model, "is_loaded_in_4bit", False):
        return "4bit"
    return "8bit" if getattr(model, "is_loaded_in_8bit", False) else None
