"""The method as one would write it first: what the ratios are against.

Eager attention of all layers, S x S matrices multiplied, one frame pass after the other, the vision tower run for each
pass and window after window on pictures that the CPU resized, SAM 2 in float32 with one call a point and one object at
a time, and nothing kept between expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from steerseg.attention.rollout import mean_heads, visual_map
from steerseg.config import Heads, PipelineConfig
from steerseg.grounding import GroundingMaps, VisionContext, frame_map_from, fuse, video_map_from
from steerseg.lvlm import LVLM, VisionFeatures
from steerseg.lvlm.tap import TAP_ATTENTION
from steerseg.points import point_prompts
from steerseg.ranking import rank_scores
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import Candidate, Prompt, Propagation, Tracker
from steerseg.video import Video


def full_rollout(
    attentions: tuple[torch.Tensor, ...], visual: torch.Tensor, layers: tuple[int, ...], heads: Heads
) -> torch.Tensor:
    """The product of all layers' S x S matrices in float32, and of it the last row: (B, S)."""
    size = attentions[0].shape[-1]
    identity = torch.eye(size, device=visual.device)
    product = identity.expand(len(visual), size, size)
    for layer in layers:
        product = (0.5 * mean_heads(attentions[layer].float(), visual, heads) + 0.5 * identity) @ product
    return product[:, -1]


@torch.no_grad()
def eager_map(
    lvlm: LVLM,
    question: str,
    vision: VisionFeatures,
    prompts: SoftPrompts,
    layers: tuple[int, ...],
    heads: Heads,
) -> torch.Tensor:
    """One pass with the attention of every layer: (1, t, h, w)."""
    matrix = prompts.video if vision.kind == "video" else prompts.frame
    chat = lvlm.chats.write(question, vision, soft_tokens=len(matrix), placement=prompts.placement)
    inputs = lvlm.reader.on_device(lvlm.chats.inputs([chat], vision))
    lvlm.model.set_attn_implementation({"text_config": "eager"})
    try:
        with lvlm.soft_prompt_hook.replacing(lvlm.chats.soft_ids[vision.kind], matrix):
            output = lvlm.model.model(**inputs, use_cache=False, output_attentions=True)
    finally:
        lvlm.model.set_attn_implementation({"text_config": TAP_ATTENTION})
    ids = inputs["input_ids"]
    token_indices = lvlm.chats.vision_indices(ids, vision.kind)[
        :, lvlm.family.token_indices(vision).to(lvlm.device)
    ]
    visual = torch.zeros_like(ids, dtype=torch.bool).scatter_(1, token_indices, True)
    return visual_map(full_rollout(output.attentions, visual, layers, heads), token_indices, vision.grid)


def eager_maps(
    lvlm: LVLM,
    context: VisionContext,
    question: str,
    prompts: SoftPrompts,
    layers: tuple[int, ...],
    heads: Heads,
) -> GroundingMaps:
    """Both maps, pass by pass."""
    video = video_map_from(eager_map(lvlm, question, context.video, prompts, layers, heads)[0])
    rolled = [
        eager_map(lvlm, question, context.frames[index : index + 1], prompts, layers, heads)[:, 0]
        for index in range(len(context.keyframes))
    ]
    frame = frame_map_from(torch.cat(rolled))
    fused = fuse(frame, video, len(context.keyframes), lvlm.family.temporal_merge)
    return GroundingMaps(context.keyframes, frame.cpu(), video.cpu(), fused.cpu())


@dataclass(frozen=True)
class Tracked:
    """What one point, object and frame at a time gave."""

    candidates: int
    winner: Propagation | None


def track_one_by_one(
    tracker: Tracker,
    video: Video,
    maps: GroundingMaps,
    config: PipelineConfig,
    temporal_merge: int,
    tick: Callable[[], None] = lambda: None,
) -> Tracked:
    """SAM 2 with one point a call and one object a propagation; frames are encoded anew for the expression."""
    encoded = tracker.open(video)
    points = sorted(point_prompts(maps, config), key=lambda point: -point.value)
    found: list[Propagation] = []
    for point in points:
        start: Candidate = tracker.start(encoded, [Prompt(point.frame, ((point.x, point.y),), (True,))])
        tick()
        if len(found) >= config.max_candidates:
            continue
        masks = [one.logits[0, one.frames.index(point.frame)] > 0 for one in found]
        own = start.memories[point.frame].logits.cpu() > 0
        overlaps = [
            int((mask & own).sum()) / max(1, int((mask | own).sum())) > config.duplicate_iou for mask in masks
        ]
        if not any(overlaps):
            found.append(tracker.propagate(encoded, [start], frames=maps.keyframes))
    if not found:
        return Tracked(0, None)
    scores = [
        float(
            rank_scores(
                one.soft_masks(), maps, frame_weight=config.frame_weight, temporal_merge=temporal_merge
            )[0]
        )
        for one in found
    ]
    best = sorted(range(len(found)), key=lambda index: -scores[index])[: config.alternatives]
    whole = [tracker.propagate(encoded, found[index].candidates) for index in best]
    return Tracked(len(found), whole[0])
