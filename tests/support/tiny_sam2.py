"""A SAM 2 of a few thousand parameters, for tests and benchmarks of what does not depend on its masks."""

from __future__ import annotations

from typing import Any

from steerseg.demo.sam2 import Sam2Size

SMALL_SAM2 = Sam2Size(
    image_size=64,
    width=8,
    stages=(1, 1, 2, 1),
    windows=(8, 4, 4, 2),
    global_blocks=(3,),
    channels=32,
    memory_channels=16,
    memory_layers=1,
    memory_frames=3,
    object_pointers=4,
)


def make_heard(model: Any) -> None:
    """Random weights hardly hear prompts and memories, so that any mistake would pass: raise their voice."""
    for parameter in model.sam_prompt_encoder.parameters():
        parameter.mul_(3)
    for layer in model.memory_attention.layers:
        layer.cross_attn_image.out_proj.weight.mul_(20)
    for head in model.sam_mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.mul_(20)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(8.0)
