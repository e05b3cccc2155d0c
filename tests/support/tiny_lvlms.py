"""Random models of a few thousand parameters of every supported family, saved in the layout of the hub.

The classes are transformers' own; tokenizers know every byte and the special tokens of their family, and the chat
templates write what the published ones write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

HIDDEN = 32
LAYERS = 4

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|quad_start|>",
]

QWEN3_5_SPECIAL = [*SPECIAL, "<think>", "</think>"]

LLAVA_SPECIAL = [*SPECIAL[:3], "<image>", "<video>"]

INTERNVL_SPECIAL = [*SPECIAL[:3], "<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<quad>", "</quad>"]

SMOLVLM_SPECIAL = [
    *SPECIAL[:3],
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    "<fake_token_around_image>",
    "<image>",
    "<|reserved_special_token_0|>",
    "<end_of_utterance>",
]

_TURN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% elif part.type == 'video' %}VIDEO"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CHAT_TEMPLATE = _TURN.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>").replace(
    "VIDEO", "<|vision_start|><|video_pad|><|vision_end|>"
)

# Contents are trimmed, and the model thinks first unless it is told not to.
QWEN3_5_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% set content %}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endset %}{{ content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)

INTERNVL_TEMPLATE = _TURN.replace("IMAGE", "<IMG_CONTEXT>\n").replace("VIDEO", "<video>\n")

# Of chats about pictures; for videos the processor brings one of its own.
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

LLAVA_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'video') %}<video>{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ '\n' + part.text }}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(
    special: list[str] = SPECIAL, *, end: str = "<|im_end|>", pad: str = "<|endoftext|>", **named: str
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: every text is representable, nothing has to be trained."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: index for index, sign in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=pad,
        padding_side="left",
        **({"model_specific_special_tokens": named} if named else {}),
    )


def _text(tokenizer: PreTrainedTokenizerFast, layers: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], **more}


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def _qwen2_5_vl(layers: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, layers, rope_parameters=_rope()),
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "out_hidden_size": HIDDEN,
            "tokens_per_second": 2,
        },
        **_qwen_ids(tokenizer),
    )
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        video_processor=transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen2_vl(layers: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    config = transformers.Qwen2VLConfig(
        text_config=_text(tokenizer, layers, rope_parameters=_rope()),
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": HIDDEN,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        **_qwen_ids(tokenizer),
    )
    processor = transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        video_processor=transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    return transformers.Qwen2VLForConditionalGeneration(config), processor


def _qwen3_vl(layers: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    config = transformers.Qwen3VLConfig(
        text_config=_text(tokenizer, layers, head_dim=8, rope_parameters=_rope(mrope_interleaved=True)),
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        **_qwen_ids(tokenizer),
    )
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=16),
        video_processor=transformers.Qwen3VLVideoProcessor(cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def _qwen3_5(layers: int) -> tuple[Any, Any]:
    """Every other layer attends, where the published models have one after three recurrent ones."""
    tokenizer = byte_tokenizer(QWEN3_5_SPECIAL)
    kinds = ("linear_attention", "full_attention")
    config = transformers.Qwen3_5Config(
        text_config=_text(
            tokenizer,
            layers,
            head_dim=16,
            rope_parameters=_rope(mrope_interleaved=True, partial_rotary_factor=0.5),
            layer_types=[kinds[layer % 2] for layer in range(layers)],
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 16,
        },
        **_qwen_ids(tokenizer),
    )
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=16),
        video_processor=transformers.Qwen3VLVideoProcessor(cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=QWEN3_5_TEMPLATE,
    )
    return transformers.Qwen3_5ForConditionalGeneration(config), processor


def _llava_onevision(layers: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(LLAVA_SPECIAL)
    side, patches = (
        73,
        5,
    )  # as in the published model, the tile is not a whole number of patches, and that is odd
    pinpoints = [[rows * side, columns * side] for rows in range(1, 4) for columns in range(1, 4)]
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer, layers)},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 14,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    size = {"height": side, "width": side}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        tokenizer=tokenizer,
        num_image_tokens=patches**2,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_TEMPLATE,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _internvl(layers: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        INTERNVL_SPECIAL,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    side = 56
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer, layers)},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [side, side],
            "patch_size": [14, 14],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    size = {"height": side, "width": side}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=True),
        video_processor=transformers.InternVLVideoProcessor(size=size),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=INTERNVL_TEMPLATE,
    )
    return transformers.InternVLForConditionalGeneration(config), processor


def _smolvlm(layers: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(SMOLVLM_SPECIAL, end="<end_of_utterance>", pad="<|im_end|>")
    # As in the published model, nine patches become a token, and the tile is not a whole number of patches.
    side, tokens = 90, 4
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **_text(tokenizer, layers)},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 14,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=3,
    )
    sizes = {"size": {"longest_edge": 3 * side}, "max_image_size": {"longest_edge": side}}
    sampling = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}}
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**sizes),
        video_processor=transformers.SmolVLMVideoProcessor(**sizes, video_sampling=sampling),
        tokenizer=tokenizer,
        image_seq_len=tokens,
        chat_template=SMOLVLM_TEMPLATE,
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


@dataclass(frozen=True)
class Tiny:
    """How a family's tiny model is made, and what of it the tests need to know.

    Attributes:
        build: Number of text layers -> a random model and its processor.
        hub_id: The published model that it stands for.
        frame_tokens: Budget of a picture that gives two rows of three tiles for a 3 : 2 video, where there are tiles.
        layers: Layers for a rollout, of a model of :data:`LAYERS`.
    """

    build: Callable[[int], tuple[Any, Any]]
    hub_id: str
    frame_tokens: int = 24
    layers: tuple[int, ...] = (1, 2, 3)


TINY = {
    "qwen2_5_vl": Tiny(_qwen2_5_vl, "Qwen/Qwen2.5-VL-7B-Instruct"),
    "qwen2_vl": Tiny(_qwen2_vl, "Qwen/Qwen2-VL-7B-Instruct"),
    "qwen3_vl": Tiny(_qwen3_vl, "Qwen/Qwen3-VL-8B-Instruct"),
    "qwen3_5": Tiny(_qwen3_5, "Qwen/Qwen3.5-4B", layers=(1, 3)),
    "llava_onevision": Tiny(_llava_onevision, "llava-hf/llava-onevision-qwen2-7b-ov-hf", 150),
    "internvl": Tiny(_internvl, "OpenGVLab/InternVL3-8B-hf"),
    "smolvlm": Tiny(_smolvlm, "HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
}


def eager_attentions(model: Any, inputs: Mapping[str, Any]) -> dict[int, torch.Tensor]:
    """What an eager model's text layers attend to, by layer; recurrent ones have no attention."""
    attentions = model.model(**inputs, use_cache=False, output_attentions=True).attentions
    layers = enumerate(model.get_decoder().layers)
    return dict(
        zip((index for index, layer in layers if hasattr(layer, "self_attn")), attentions, strict=True)
    )


def save_tiny_lvlm(folder: Path, family: str = "qwen2_5_vl", *, layers: int = LAYERS) -> None:
    """Write a random model of a few thousand parameters, with its processor."""
    torch.manual_seed(0)
    model, processor = TINY[family].build(layers)
    # Larger weights than the default start, so that attention is far from uniform and errors show.
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2 if "embed" not in name else 1.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
