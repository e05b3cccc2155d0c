"""SAM 3 as a whole, detector and tracker, with few random weights in the layout of the published one."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPTokenizer,
    Sam2VideoVideoProcessor,
    Sam3ImageProcessor,
    Sam3VideoConfig,
    Sam3VideoModel,
    Sam3VideoProcessor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.support.tiny_video_models import SAM3_PARTS, VISION, raise_voices

_SIDE = 56
_WIDTH = 128
_BLOCK = {"hidden_size": _WIDTH, "num_attention_heads": 4, "intermediate_size": 64}


def tiny_tokenizer() -> CLIPTokenizer:
    """Letter by letter, in the form of CLIP's."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])


def tiny_sam3() -> Sam3VideoModel:
    """Finds a few objects in any video: thresholds are as low as random scores are."""
    torch.manual_seed(5)
    text = {
        "model_type": "clip_text_model",
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    detector = {
        "model_type": "sam3",
        "vision_config": VISION,
        "text_config": text,
        "geometry_encoder_config": {**_BLOCK, "num_layers": 1},
        "detr_encoder_config": {**_BLOCK, "num_layers": 2},
        "detr_decoder_config": {**_BLOCK, "num_layers": 2, "num_queries": 6},
        "mask_decoder_config": {"hidden_size": _WIDTH, "num_attention_heads": 4},
    }
    config = Sam3VideoConfig(
        detector_config=detector,
        tracker_config={"model_type": "sam3_tracker_video", **SAM3_PARTS},
        low_res_mask_size=4 * _SIDE // 14,
        score_threshold_detection=0.29,
        new_det_thresh=0.3,
        assoc_iou_thresh=0.6,
    )
    config.image_size = _SIDE
    model = Sam3VideoModel(config)
    raise_voices(model.tracker_model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.detector_model.named_parameters():
            if parameter.ndim > 1 and "vision_encoder" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.9 * noise / parameter[0].numel() ** 0.5)
    return model.eval()


def save_tiny_sam3(folder: Path) -> None:
    """Save weights and processor as the published ones are."""
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": _SIDE, "width": _SIDE}}
    tiny_sam3().save_pretrained(folder)
    Sam3VideoProcessor(
        Sam3ImageProcessor(**grey), Sam2VideoVideoProcessor(**grey), tiny_tokenizer()
    ).save_pretrained(folder)
