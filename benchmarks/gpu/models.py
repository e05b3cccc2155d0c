"""Random models of full size, made on the device itself in seconds; and tiny ones that a CPU can run."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from benchmarks.gpu.layouts import build_layout
from benchmarks.gpu.segmenters import LARGE, build_segmenter
from steerseg import SteerSeg
from steerseg.config import SegmenterConfig, TrainingConfig
from steerseg.lvlm import LVLM
from steerseg.lvlm.quantised import keep_differentiable
from steerseg.presets import Preset, find_preset, load_preset
from steerseg.segmenters.sam2 import Sam2
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import Tracker
from steerseg.training.trainer import TrainingSample
from steerseg.video import Video, video_from_frames
from tests.support.tiny_lvlms import TINY
from tests.support.tiny_sam2 import SMALL_SAM2

Size = Literal["full", "tiny"]
LAYOUT = "qwen2.5-vl-7b"
_ANSWER_TOKENS = 64

TRAINING = TrainingConfig(steps=20, warmup=2)
"""Of a training that is measured for a few steps."""


def make_lvlm(size: Size, device: torch.device, dtype: torch.dtype, layout: str = LAYOUT) -> LVLM:
    """A random language model, of a preset's layout in full size; greedy answers of it never end by themselves."""
    torch.manual_seed(0)
    if size == "full":
        model, processor = build_layout(layout, device, dtype)
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

    text = lvlm.text_model.layers
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


def make_tracker(
    size: Size,
    device: torch.device,
    dtype: torch.dtype,
    segmenter: str = LARGE,
    config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
) -> Tracker:
    """A random segmenter that believes in every object; a small SAM 2 where the size is tiny."""
    if size == "full":
        return Tracker(build_segmenter(segmenter, device, dtype, config))
    from steerseg.demo.sam2 import build_sam2

    torch.manual_seed(1)
    model = build_sam2(SMALL_SAM2).to(device)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(8.0)
    return Tracker(Sam2(model, version=f"random-{size}", dtype=dtype))


def make_preset(size: Size, layout: str = LAYOUT) -> Preset:
    """Keyframes, budgets and layers of the published preset, or small ones."""
    if size == "full" and layout != LAYOUT:
        shipped = load_preset(find_preset(layout))
        return shipped.model_copy(
            update={"name": "random", "pipeline": {**shipped.pipeline, "max_new_tokens": _ANSWER_TOKENS}}
        )
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
