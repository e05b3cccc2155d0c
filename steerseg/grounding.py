"""Expression, attributes and soft prompts -> grounding maps at frame and video granularity."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GroundingMaps:
    """Attention rolled out from the response token to the visual tokens, smoothed and normalised.

    Attributes:
        keyframes: The K video frames (decode indices) that the LVLM saw.
        frame: (K, h, w) float32 in [0, 1], min-max per keyframe; ``None`` when only video granularity is used.
        video: (ceil(K / 2), h', w') float32 in [0, 1], min-max over the clip; ``None`` when only frame
            granularity is used.
        fused: (K, h, w) float32 in [0, 1], min-max over the clip.
    """

    keyframes: tuple[int, ...]
    frame: torch.Tensor | None
    video: torch.Tensor | None
    fused: torch.Tensor
