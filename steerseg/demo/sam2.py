"""The embedded SAM 2: the sam2 package's own classes in a size that two CPU cores can afford.

The shipped folder holds ``config.yaml`` (the layout of the sam2 package's own configurations) and
``model.safetensors``. Only the neck is a subclass of ours; everything else is SAM 2 as published.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file
from sam2.modeling.backbones.image_encoder import FpnNeck
from torch import Tensor, nn

CONFIG_NAME = "config.yaml"
WEIGHTS_NAME = "model.safetensors"

_KEPT_IN_FP32 = 4096
"""Tensors with fewer elements are stored as float32: they cost nothing and hold norms and positions."""

_POSITION_BIAS = 2.0
"""Makes the memory's attention fall by one nat at about one and a half cells of distance."""

_POSITION_RMS = math.sqrt(0.5)
"""Root mean square of sines and cosines: the scale of the encoding that carries a click."""


class NormalisedFpnNeck(FpnNeck):
    """SAM 2's neck, its outputs brought to the scale of the position encoding.

    Trained from scratch, the features otherwise outgrow the encoding that carries a click by an order of
    magnitude, and the decoder learns to segment everything whatever is clicked.
    """

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Run the neck on the trunk's stages and normalise each level over channels and positions."""
        features, positions = super().forward(xs)
        return [F.group_norm(level, 1) * _POSITION_RMS for level in features], positions


@dataclass(frozen=True)
class Sam2Size:
    """The free choices of the tiny model; the defaults are those of the shipped weights.

    Attributes:
        image_size: Side of the square input in pixels, a multiple of 32.
        width: Channels of Hiera's first stage; each further stage has twice as many.
        stages: Blocks per stage.
        windows: Attention window per stage in tokens; stage i is ``image_size / 2 ** (2 + i)`` tokens wide.
        global_blocks: Blocks with attention over the whole picture. Never the first block of a stage, whose
            pooling needs a window.
        channels: Width of the neck, the memory attention and the decoder; a multiple of 16.
        memory_channels: Width of the memory; divides ``channels``.
        memory_layers: Layers of memory attention.
        memory_frames: Frames that the memory attention sees, the prompted one included.
        object_pointers: Most object pointers that the memory attention sees.
    """

    image_size: int = 320
    width: int = 40
    stages: tuple[int, int, int, int] = (1, 2, 6, 2)
    windows: tuple[int, int, int, int] = (8, 4, 10, 5)
    global_blocks: tuple[int, ...] = (5, 8)
    channels: int = 128
    memory_channels: int = 32
    memory_layers: int = 2
    memory_frames: int = 4
    object_pointers: int = 8


def model_config(size: Sam2Size = Sam2Size()) -> dict[str, Any]:
    """The configuration in the layout of the sam2 package: ``{"model": {"_target_": …}}``."""
    return {
        "model": {
            "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
            "image_encoder": _image_encoder(size),
            "memory_attention": _memory_attention(size),
            "memory_encoder": _memory_encoder(size),
            "num_maskmem": size.memory_frames,
            "image_size": size.image_size,
            "sigmoid_scale_for_mem_enc": 20.0,
            "sigmoid_bias_for_mem_enc": -10.0,
            "use_mask_input_as_output_without_sam": True,
            "directly_add_no_mem_embed": True,
            "no_obj_embed_spatial": True,
            "use_high_res_features_in_sam": True,
            # One mask a prompt: sprites have no parts, so a click is not ambiguous.
            "multimask_output_in_sam": False,
            "iou_prediction_use_sigmoid": True,
            "use_obj_ptrs_in_encoder": True,
            "max_obj_ptrs_in_encoder": size.object_pointers,
            "add_tpos_enc_to_obj_ptrs": True,
            "proj_tpos_enc_in_obj_ptrs": True,
            "use_signed_tpos_enc_to_obj_ptrs": True,
            "only_obj_ptrs_in_the_past_for_eval": True,
            "pred_obj_scores": True,
            "pred_obj_scores_mlp": True,
            "fixed_no_obj_ptr": True,
            "use_mlp_for_obj_ptr_proj": True,
            "compile_image_encoder": False,
        }
    }


def _sine(channels: int) -> dict[str, Any]:
    return {
        "_target_": "sam2.modeling.position_encoding.PositionEmbeddingSine",
        "num_pos_feats": channels,
        "normalize": True,
        "scale": None,
        "temperature": 10000,
    }


def _image_encoder(size: Sam2Size) -> dict[str, Any]:
    return {
        "_target_": "sam2.modeling.backbones.image_encoder.ImageEncoder",
        "scalp": 1,
        "trunk": {
            "_target_": "sam2.modeling.backbones.hieradet.Hiera",
            "embed_dim": size.width,
            "num_heads": 1,
            "stages": list(size.stages),
            "global_att_blocks": list(size.global_blocks),
            "window_spec": list(size.windows),
            "window_pos_embed_bkg_spatial_size": [7, 7],
        },
        "neck": {
            "_target_": "steerseg.demo.sam2.NormalisedFpnNeck",
            "position_encoding": _sine(size.channels),
            "d_model": size.channels,
            "backbone_channel_list": [size.width * 2**i for i in (3, 2, 1, 0)],
            "fpn_top_down_levels": [2, 3],
            "fpn_interp_model": "nearest",
        },
    }


def _rotary_attention(size: Sam2Size, **extra: Any) -> dict[str, Any]:
    grid = size.image_size // 16
    return {
        "_target_": "sam2.modeling.sam.transformer.RoPEAttention",
        "rope_theta": 10000.0,
        "feat_sizes": [grid, grid],
        "embedding_dim": size.channels,
        "num_heads": 1,
        "downsample_rate": 2,
        "dropout": 0.0,
        **extra,
    }


def _memory_attention(size: Sam2Size) -> dict[str, Any]:
    return {
        "_target_": "sam2.modeling.memory_attention.MemoryAttention",
        "d_model": size.channels,
        "pos_enc_at_input": True,
        "num_layers": size.memory_layers,
        "layer": {
            "_target_": "sam2.modeling.memory_attention.MemoryAttentionLayer",
            "activation": "relu",
            "dim_feedforward": 2 * size.channels,
            "dropout": 0.0,
            "pos_enc_at_attn": False,
            "pos_enc_at_cross_attn_keys": True,
            "pos_enc_at_cross_attn_queries": False,
            "d_model": size.channels,
            "self_attention": _rotary_attention(size),
            "cross_attention": _rotary_attention(size, rope_k_repeat=True, kv_in_dim=size.memory_channels),
        },
    }


def _memory_encoder(size: Sam2Size) -> dict[str, Any]:
    return {
        "_target_": "sam2.modeling.memory_encoder.MemoryEncoder",
        "in_dim": size.channels,
        "out_dim": size.memory_channels,
        "position_encoding": _sine(size.memory_channels),
        "mask_downsampler": {
            "_target_": "sam2.modeling.memory_encoder.MaskDownSampler",
            "embed_dim": size.channels,
            "kernel_size": 3,
            "stride": 2,
            "padding": 1,
        },
        "fuser": {
            "_target_": "sam2.modeling.memory_encoder.Fuser",
            "num_layers": 2,
            "layer": {
                "_target_": "sam2.modeling.memory_encoder.CXBlock",
                "dim": size.channels,
                "kernel_size": 7,
                "padding": 3,
                # SAM 2 starts at 1e-6 for training that lasts days; minutes need a wider start.
                "layer_scale_init_value": 0.1,
                "use_dwconv": True,
            },
        },
    }


def build_sam2(size: Sam2Size = Sam2Size()) -> Any:
    """A freshly initialised ``SAM2VideoPredictor`` that learns from scratch in minutes.

    Departures from random initialisation: the object score starts positive (a negative one replaces the masks
    by a constant, and no gradient flows); the decoder's cross-attentions start with equal, orthogonal query
    and key projections, so that a click attends to its own position; and the memory's cross-attentions start with
    equal, constant biases, which under a rotary encoding make a position attend to itself in earlier frames.
    """
    model = instantiate(OmegaConf.create(model_config(size)["model"]))
    nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 4.0)
    transformer = model.sam_mask_decoder.transformer
    crossings = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        crossings += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in crossings:
        nn.init.orthogonal_(attention.q_proj.weight)
        with torch.no_grad():
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.weight.mul_(1.5)
        nn.init.zeros_(attention.q_proj.bias)
        nn.init.zeros_(attention.k_proj.bias)
    for layer in model.memory_attention.layers:
        nn.init.constant_(layer.cross_attn_image.q_proj.bias, _POSITION_BIAS)
        nn.init.constant_(layer.cross_attn_image.k_proj.bias, _POSITION_BIAS)
    return model


def save_sam2(state: dict[str, Tensor], size: Sam2Size, directory: str | Path, **metadata: Any) -> None:
    """Write ``config.yaml`` and ``model.safetensors`` (large tensors in float16), each replaced atomically.

    Args:
        state: The model's state dict.
        size: The choices that the model was built with.
        directory: Folder to write into; made if absent.
        **metadata: JSON-ready facts kept in the weight file's header (steps, measurements).
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    half = {
        name: (value if value.numel() < _KEPT_IN_FP32 else value.half()).detach().cpu().contiguous()
        for name, value in state.items()
    }
    weights = directory / (WEIGHTS_NAME + ".part")
    save_file(half, weights, metadata={"format": "pt", "training": json.dumps(metadata)})
    weights.chmod(0o644)  # the writer makes it private
    config = directory / (CONFIG_NAME + ".part")
    OmegaConf.save(OmegaConf.create(model_config(size)), config)
    config.replace(directory / CONFIG_NAME)
    weights.replace(directory / WEIGHTS_NAME)
