"""Positions in time, height and width (M-RoPE), as the Qwen models were trained with them."""

from __future__ import annotations

import torch


def text_after_vision(positions: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
    """Let the text after the vision begin at 1 + the vision's largest position in any dimension.

    The models were trained so (Qwen2-VL, arXiv 2409.12191, section 2.1: each modality begins at the largest position
    of the one before it, plus one). transformers 5.23 and 5.24 begin at the larger side of the grid instead, which
    lies within the time of a video of more than about 14 seconds. Right positions stay as they are.

    Args:
        positions: (3, B, S) as counted by the model. Text after the vision has the same position in all dimensions.
        types: (B, S) 0 on text and padding, more on visual tokens; text follows the last of these.

    Returns:
        (3, B, S) positions. Text before the vision, the vision and padding to the left keep theirs.
    """
    visual = types > 0
    largest = positions.amax(dim=0).masked_fill(~visual, 0).amax(dim=-1, keepdim=True)
    after = visual.flip(-1).cumsum(-1).flip(-1) == 0
    first = positions[0].gather(1, after.int().argmax(dim=-1, keepdim=True))
    return positions + after * (largest + 1 - first)
