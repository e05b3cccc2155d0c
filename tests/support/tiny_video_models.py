"""Video models of ``transformers`` with few random weights, in the layouts of the published ones."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3TrackerVideoConfig,
    Sam3TrackerVideoModel,
)

_WIDTH = 128  # the library fixes 64 channels for a memory, and a pointer is cut into parts of as many

_DECODER = {"hidden_size": _WIDTH, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
_MEMORY = {
    "memory_attention_hidden_size": _WIDTH,
    "memory_attention_num_layers": 2,
    "memory_encoder_hidden_size": _WIDTH,
    "memory_fuser_embed_dim": _WIDTH,
    "memory_fuser_intermediate_dim": 64,
    "mask_downsampler_embed_dim": _WIDTH,
    "num_maskmem": 5,
    "max_object_pointers_in_encoder": 8,
}
_HIERA = {
    "model_type": "sam2_vision_model",
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": _WIDTH,
}
_REPVIT = {
    "model_type": "edgetam_vision_model",
    "backbone_config": {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "num_classes": 2,
        "model_args": {
            "in_chans": 3,
            "features_only": True,
            "out_indices": [0, 1, 2, 3],
            "embed_dim": [8, 16, 24, 32],
            "depth": [1, 1, 1, 1],
        },
    },
    "backbone_channel_list": [32, 24, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": _WIDTH,
}
VISION = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    },
    "fpn_hidden_size": _WIDTH,
}

_PROMPT = {"hidden_size": _WIDTH, "image_size": 64, "patch_size": 16}
_COMMON = {**_MEMORY, "image_size": 64, "prompt_encoder_config": _PROMPT, "mask_decoder_config": _DECODER}
SAM3_PARTS = {
    **_COMMON,
    # A patch of 14 pixels: masks, input and memories have sizes that are no multiples of each other.
    "image_size": 56,
    "prompt_encoder_config": {**_PROMPT, "patch_size": 14},
    "vision_config": VISION,
}
"""The tracker of SAM 3."""


def tiny_video_model(name: str) -> Any:
    """``sam2``, ``edgetam`` (behind SAM 2's image encoder), ``edgetam-repvit`` (its own, by timm) or ``sam3``."""
    torch.manual_seed(5)
    grid = {"memory_attention_rope_feat_sizes": [4, 4]}
    if name == "sam2":
        model = Sam2VideoModel(Sam2VideoConfig(**_COMMON, **grid, vision_config=_HIERA))
    elif name == "sam3":
        model = Sam3TrackerVideoModel(Sam3TrackerVideoConfig(**SAM3_PARTS))
    else:
        perceiver = {"perceiver_resampler_num_latents": 3, "perceiver_resampler_num_latents_2d": 4}
        keys = {"memory_attention_rope_k_sizes": [2, 2]}
        vision = _REPVIT if name == "edgetam-repvit" else _HIERA
        model = EdgeTamVideoModel(
            EdgeTamVideoConfig(**_COMMON, **grid, **keys, **perceiver, vision_config=vision)
        )
    raise_voices(model)
    return model.eval()


@torch.no_grad()
def raise_voices(model: Any) -> None:
    """Weights as they begin hardly hear prompts and memories, so that any mistake would pass."""
    generator = torch.Generator().manual_seed(6)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "vision_encoder" in name:
            continue
        if parameter.ndim > 1 and min(parameter.shape) > 1:
            # Louder, and differences of rounding would grow from frame to frame.
            gain = 0.6 if "perceiver" in name else 0.9
            parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)
        else:
            parameter.add_(noise * 0.1)
    # Presence says yes on most frames and no on some.
    model.mask_decoder.pred_obj_score_head.proj_out.weight.mul_(0.5)
    model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(0.7)
