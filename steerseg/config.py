"""The choices of the method as data: how one proposal is made, and what a preset consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Granularity = Literal["frame", "video", "both"]
Heads = Literal["mean", "visual_max"]
Placement = Literal["before_vision", "start", "after_vision"]


@dataclass(frozen=True)
class PipelineConfig:
    """Every switch of the method. The defaults are the method as published; the rest are ablations.

    Attributes:
        keyframes: How many frames the LVLM sees, spread evenly over the video.
        reasoning: Whether a chain-of-thought step names discriminating attributes first.
        soft_prompts: Whether the soft prompts steer the grounding passes.
        granularity: Which grounding maps are used.
        heads: How attention heads are averaged: plainly, or weighted by their largest attention to a
            visual token.
        point_threshold: Least fused map value in [0, 1] of a point prompt.
        max_points: Most point prompts taken per keyframe, highest first.
        duplicate_iou: Two candidates on one keyframe that overlap more are the same object.
        max_candidates: Most candidates that are propagated over the keyframes.
        frame_weight: Weight w_f in [0, 1] of the frame map in a tracklet's score; the video map has the rest.
        alternatives: How many ranked tracklets a proposal holds, the best one included.
        max_new_tokens: Length limit of the chain-of-thought answer.
    """

    keyframes: int = 16
    reasoning: bool = True
    soft_prompts: bool = True
    granularity: Granularity = "both"
    heads: Heads = "visual_max"
    point_threshold: float = 0.8
    max_points: int = 6
    duplicate_iou: float = 0.7
    max_candidates: int = 8
    frame_weight: float = 0.3
    alternatives: int = 3
    max_new_tokens: int = 128
