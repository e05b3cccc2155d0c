"""Random models of full size, made on the device itself in seconds; and tiny ones that a CPU can run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import transformers

from steerseg import SteerSeg
from steerseg.config import TrainingConfig
from steerseg.lvlm import LVLM
from steerseg.lvlm.quantised import keep_differentiable
from steerseg.presets import Preset
from steerseg.segmenters.sam2 import Sam2
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import Tracker
from steerseg.training.trainer import TrainingSample
from steerseg.video import Video, video_from_frames
from tests.support.tiny_lvlms import CHAT_TEMPLATE, TINY, byte_tokenizer
from tests.support.tiny_sam2 import SMALL_SAM2

Size = Literal["full", "tiny"]
_ANSWER_TOKENS = 64

TRAINING = TrainingConfig(steps=20, warmup=2)
"""Of a training that is measured for a few steps."""


@contextmanager
def _made_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _qwen2_5_vl_7b(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The layout of Qwen2.5-VL-7B with the tests' tokenizer, which knows bytes only."""
    tokenizer = byte_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": number("<|endoftext|>"),
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 3584,
            "tokens_per_second": 2,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    with _made_in(dtype, device):
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        video_processor=transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor


def make_lvlm(size: Size, device: torch.device, dtype: torch.dtype) -> LVLM:
    """A random language model; greedy answers of it never end by themselves."""
    torch.manual_seed(0)
    if size == "full":
        model, processor = _qwen2_5_vl_7b(device, dtype)
    else:
        model, processor = TINY["qwen2_5_vl"].build(4)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2 if "embed" not in name else 1.0)
        model = model.to(device, dtype)
    model.generation_config.eos_token_id = None
    return LVLM(model, processor, f"random-{size}")


def quantise(lvlm: LVLM) -> None:
    """Bring the text layers' weights to 4 bits, as bitsandbytes does when it loads them."""
    import bitsandbytes

    text = lvlm.model.model.language_model.layers
    for module in list(text.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, torch.nn.Linear):
                fewer = bitsandbytes.nn.Linear4bit(
                    layer.in_features,
                    layer.out_features,
                    bias=layer.bias is not None,
                    compute_dtype=lvlm.dtype,
                    quant_type="nf4",
                    device="meta",
                )
                fewer.weight = bitsandbytes.nn.Params4bit(
                    layer.weight.data, requires_grad=False, quant_type="nf4"
                )
                fewer.bias = layer.bias
                setattr(module, name, fewer.to(lvlm.device))
    keep_differentiable(lvlm.model)


def limit_memory(device: torch.device, gigabytes: float) -> None:
    """Go on as on a smaller card: PyTorch gets no more memory than that, and is told that there is no more."""
    limit = int(gigabytes * 1e9)
    torch.cuda.empty_cache()
    share = limit / torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(share, device.index or 0)

    def mem_get_info(device: torch.device | str | int | None = None) -> tuple[int, int]:
        return limit - torch.cuda.memory_reserved(device), limit

    torch.cuda.mem_get_info = mem_get_info


def make_tracker(size: Size, device: torch.device, dtype: torch.dtype) -> Tracker:
    """A random SAM 2 that believes in every object."""
    torch.manual_seed(1)
    if size == "full":
        from sam2.build_sam import build_sam2_video_predictor

        model = build_sam2_video_predictor("configs/sam2.1/sam2.1_hiera_l.yaml", None, device=str(device))
    else:
        from steerseg.demo.sam2 import build_sam2

        model = build_sam2(SMALL_SAM2).to(device)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(8.0)
    return Tracker(Sam2(model, version=f"random-{size}", dtype=dtype))


def make_preset(size: Size) -> Preset:
    """Keyframes, budgets and layers of the published preset, or small ones."""
    if size == "full":
        # Answers of random weights never end; a list of a few attributes, which ends one, is shorter than this.
        pipeline = {"max_new_tokens": _ANSWER_TOKENS}
        return Preset(name="random", lvlm="-", sam2="-", layers=tuple(range(14, 28)), pipeline=pipeline)
    pipeline = {"max_new_tokens": 8}
    return Preset(name="random", lvlm="-", sam2="-", keyframes=4, video_tokens=24, pipeline=pipeline)


def make_prompts(lvlm: LVLM, size: Size) -> SoftPrompts:
    """64 tokens, as published; 4 for the tiny model."""
    return SoftPrompts.from_vocabulary(lvlm.embeddings.weight, 64 if size == "full" else 4, seed=0)


def make_sample(steerseg: SteerSeg, video: Video) -> TrainingSample:
    """One training sample: a video pass and two frame passes, and a block that both should find."""
    pictures = [0, 1]
    context = steerseg.encode_keyframes(video, steerseg.config, pictures=pictures)
    masks = np.zeros((len(context.keyframes), *video.frames.shape[1:3]), dtype=bool)
    masks[:, 10:40, 10:60] = True
    merge = steerseg.lvlm.family.temporal_merge
    return TrainingSample.from_masks(context, "where is it?", masks, merge, pictures=pictures)


def make_video(frames: int, size: Size, *, seed: int = 0) -> Video:
    """Moving blocks of 854 x 480 pixels (96 x 54 for the tiny models)."""
    height, width = (480, 854) if size == "full" else (54, 96)
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    still = np.kron(coarse, np.ones((6, 6, 1), dtype=np.uint8))[:height, :width]
    pixels = np.stack([np.roll(still, 2 * index, axis=1) for index in range(frames)])
    return video_from_frames(pixels, fps=24)
