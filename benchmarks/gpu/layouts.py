"""Random language models in the layouts of published ones, made on the device itself, with the tests' tokenizer.

The numbers are those of the published ``config.json`` files. The vocabulary keeps its size; the tokenizer knows bytes
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from tests.support.tiny_lvlms import (
    CHAT_TEMPLATE,
    INTERNVL_SPECIAL,
    INTERNVL_TEMPLATE,
    QWEN3_5_SPECIAL,
    QWEN3_5_TEMPLATE,
    SMOLVLM_SPECIAL,
    SMOLVLM_TEMPLATE,
    byte_tokenizer,
)

_QWEN2_5_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_QWEN3_VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}


@contextmanager
def _made_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _text(tokenizer: Any, width: int, inner: int, layers: int, heads: int, shared: int, **more: Any) -> Any:
    return {
        "vocab_size": 151936,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        **more,
    }


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{key}_token_id": tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _qwen2_5_vl(
    width: int, inner: int, layers: int, heads: int, shared: int, *, tied: bool, vocabulary: int
) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        tokenizer = byte_tokenizer()
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
        text = _text(tokenizer, width, inner, layers, heads, shared, rope_parameters=rope)
        config = transformers.Qwen2_5_VLConfig(
            text_config={**text, "vocab_size": vocabulary},
            vision_config={**_QWEN2_5_VISION, "out_hidden_size": width},
            tie_word_embeddings=tied,
            **_qwen_ids(tokenizer),
        )
        processor = transformers.Qwen2_5_VLProcessor(
            image_processor=transformers.Qwen2VLImageProcessor(),
            video_processor=transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False),
            tokenizer=tokenizer,
            chat_template=CHAT_TEMPLATE,
        )
        return transformers.Qwen2_5_VLForConditionalGeneration(config), processor

    return build


def _qwen3_vl(width: int, inner: int, layers: int, heads: int, shared: int) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        tokenizer = byte_tokenizer()
        rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
        rope["mrope_interleaved"] = True
        config = transformers.Qwen3VLConfig(
            text_config=_text(
                tokenizer, width, inner, layers, heads, shared, head_dim=128, rope_parameters=rope
            ),
            vision_config={**_QWEN3_VISION, "out_hidden_size": width},
            tie_word_embeddings=True,
            **_qwen_ids(tokenizer),
        )
        processor = transformers.Qwen3VLProcessor(
            image_processor=transformers.Qwen2VLImageProcessor(patch_size=16),
            video_processor=transformers.Qwen3VLVideoProcessor(cap_pixels_per_frame=False),
            tokenizer=tokenizer,
            chat_template=CHAT_TEMPLATE,
        )
        return transformers.Qwen3VLForConditionalGeneration(config), processor

    return build


def _qwen3_5(width: int, inner: int, layers: int) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        tokenizer = byte_tokenizer(QWEN3_5_SPECIAL)
        rope = {"rope_type": "default", "rope_theta": 1e7, "mrope_section": [11, 11, 10]}
        rope |= {"mrope_interleaved": True, "partial_rotary_factor": 0.25}
        text = _text(tokenizer, width, inner, layers, 16, 4, head_dim=256, rope_parameters=rope)
        vision = {key: value for key, value in _QWEN3_VISION.items() if key != "deepstack_visual_indexes"}
        config = transformers.Qwen3_5Config(
            text_config={**text, "vocab_size": 248320},
            vision_config={**vision, "out_hidden_size": width},
            tie_word_embeddings=True,
            **_qwen_ids(tokenizer),
        )
        processor = transformers.Qwen3VLProcessor(
            image_processor=transformers.Qwen2VLImageProcessor(patch_size=16),
            video_processor=transformers.Qwen3VLVideoProcessor(cap_pixels_per_frame=False),
            tokenizer=tokenizer,
            chat_template=QWEN3_5_TEMPLATE,
        )
        return transformers.Qwen3_5ForConditionalGeneration(config), processor

    return build


def _internvl(width: int, inner: int, layers: int, heads: int, shared: int) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        tokenizer = byte_tokenizer(
            INTERNVL_SPECIAL,
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        )
        rope = {"rope_type": "default", "rope_theta": 1e6}
        text = _text(tokenizer, width, inner, layers, heads, shared, rope_parameters=rope)
        config = transformers.InternVLConfig(
            text_config={"model_type": "qwen2", **text, "vocab_size": 151674},
            vision_config={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": [448, 448],
                "patch_size": [14, 14],
            },
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=256,
            tie_word_embeddings=False,
        )
        size = {"height": 448, "width": 448}
        processor = transformers.InternVLProcessor(
            image_processor=transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=True),
            video_processor=transformers.InternVLVideoProcessor(size=size),
            tokenizer=tokenizer,
            image_seq_length=256,
            chat_template=INTERNVL_TEMPLATE,
        )
        return transformers.InternVLForConditionalGeneration(config), processor

    return build


def _smolvlm(width: int, inner: int, layers: int, heads: int) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        tokenizer = byte_tokenizer(SMOLVLM_SPECIAL, end="<end_of_utterance>", pad="<|im_end|>")
        rope = {"rope_type": "default", "rope_theta": 130000.0}
        text = _text(tokenizer, width, inner, layers, heads, heads, rope_parameters=rope)
        config = transformers.SmolVLMConfig(
            text_config={"model_type": "llama", **text, "vocab_size": 49280},
            vision_config={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 14,
            },
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            scale_factor=3,
            tie_word_embeddings=False,
        )
        sizes = {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}}
        processor = transformers.SmolVLMProcessor(
            image_processor=transformers.SmolVLMImageProcessor(**sizes),
            video_processor=transformers.SmolVLMVideoProcessor(
                **sizes, video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 384}}
            ),
            tokenizer=tokenizer,
            image_seq_len=81,
            chat_template=SMOLVLM_TEMPLATE,
        )
        return transformers.SmolVLMForConditionalGeneration(config), processor

    return build


LAYOUTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2.5-vl-7b": _qwen2_5_vl(3584, 18944, 28, 28, 4, tied=False, vocabulary=152064),
    "qwen2.5-vl-3b": _qwen2_5_vl(2048, 11008, 36, 16, 2, tied=True, vocabulary=151936),
    "qwen3-vl-4b": _qwen3_vl(2560, 9728, 36, 32, 8),
    "qwen3-vl-2b": _qwen3_vl(2048, 6144, 28, 16, 8),
    "qwen3.5-4b": _qwen3_5(2560, 9216, 32),
    "internvl3-2b": _internvl(1536, 8960, 28, 12, 2),
    "smolvlm2-2.2b": _smolvlm(2048, 8192, 24, 32),
}
"""By the name of the preset, what builds a random model and its processor where tensors are made."""


def build_layout(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """A random model of a preset's layout, on the device and in this precision, and its processor."""
    with _made_in(dtype, device):
        return LAYOUTS[name]()
