"""Random segmenters of full size, by the names that presets have for the published ones."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from steerseg.config import SegmenterConfig
from steerseg.segmenters.base import Segmenter
from steerseg.segmenters.hf import EdgeTam, VideoModel
from steerseg.segmenters.sam2 import Sam2

LARGE = "facebook/sam2.1-hiera-large"
HF_LARGE = "SAM 2.1-L of transformers"

_SURE = 8.0  # logit of presence: an object that is believed in is tracked to the end


def build_predictor(name: str, device: torch.device) -> Any:
    """A random ``SAM2VideoPredictor`` of the ``sam2`` package that believes in every object; always the same one."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES, build_sam2_video_predictor

    torch.manual_seed(1)
    config, _ = HF_MODEL_ID_TO_FILENAMES[name]
    model = build_sam2_video_predictor(config, None, device=str(device))
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(_SURE)
    return model


def build_video_model(name: str, device: torch.device) -> Any:
    """A random video model of ``transformers`` that believes in every object; always the same one."""
    torch.manual_seed(1)
    with torch.device(device):
        if name == "edgetam":
            config = transformers.EdgeTamVideoConfig(
                vision_config={
                    "model_type": "edgetam_vision_model",
                    "backbone_config": {
                        "model_type": "timm_wrapper",
                        "architecture": "repvit_m1",
                        "num_classes": 2,
                        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
                    },
                    "backbone_channel_list": [384, 192, 96, 48],
                }
            )
            model: Any = transformers.EdgeTamVideoModel(config)
        else:
            config = transformers.Sam2VideoConfig(
                vision_config={
                    "model_type": "sam2_vision_model",
                    "backbone_config": {
                        "model_type": "sam2_hiera_det_model",
                        "hidden_size": 144,
                        "num_attention_heads": 2,
                        "blocks_per_stage": [2, 6, 36, 4],
                        "embed_dim_per_stage": [144, 288, 576, 1152],
                        "num_attention_heads_per_stage": [2, 4, 8, 16],
                        "window_size_per_stage": [8, 4, 16, 8],
                        "global_attention_blocks": [23, 33, 43],
                    },
                    "backbone_channel_list": [1152, 576, 288, 144],
                }
            )
            model = transformers.Sam2VideoModel(config)
    model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(_SURE)
    return model.to(device).eval()


def build_segmenter(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
) -> Segmenter:
    """A random segmenter of full size.

    Args:
        name: Hub id of a SAM 2, ``"edgetam"`` or :data:`HF_LARGE`.
        device: Where to run.
        dtype: Its precision.
        config: How frames and clicks reach it.
    """
    if name in ("edgetam", HF_LARGE):
        kind = EdgeTam if name == "edgetam" else VideoModel
        return kind(build_video_model(name, device), version=f"random-{name}", dtype=dtype, config=config)
    return Sam2(build_predictor(name, device), version=f"random-{name}", dtype=dtype, config=config)
