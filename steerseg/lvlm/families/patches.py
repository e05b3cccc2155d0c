"""Where patches lie, told to a vision tower that would count on the device and wait there for each number."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from steerseg.runtime.memory import to_device

_KEPT = 8  # grids a model: videos of a project have few sizes

_known: WeakKeyDictionary[Any, dict[object, dict[str, torch.Tensor]]] = WeakKeyDictionary()


def patch_layout(model: Any, kind: str, grids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The layout as a Qwen model's ``get_image_features`` or ``get_video_features`` takes it by keywords.

    Args:
        model: Its vision tower is ``model.model.visual``.
        kind: Image or video.
        grids: (N, 3) slices, rows and columns of patches, on the host.
    """
    layouts = _known.setdefault(model, {})
    key = model.device, *grids.flatten().tolist()
    if key not in layouts:
        while len(layouts) >= _KEPT:
            del layouts[next(iter(layouts))]
        layouts[key] = _laid(model.model.visual, grids, model.device)
    return {f"{kind}_{name}": part for name, part in layouts[key].items()}


def _laid(tower: Any, grids: torch.Tensor, device: torch.device) -> dict[str, torch.Tensor]:
    config, merge = tower.config, tower.config.spatial_merge_size
    there = {"position_ids": get_vision_position_ids(grids, merge)}
    here = {"cu_seqlens": get_vision_cu_seqlens(grids)}  # where pieces end is read by the host
    if hasattr(config, "window_size"):
        there["window_index"], here["cu_window_seqlens"] = get_vision_window_index(
            grids, spatial_merge_size=merge, window_size=config.window_size, patch_size=config.patch_size
        )
    if hasattr(tower, "num_grid_per_side"):
        there["interp_indices"], there["interp_weights"] = get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=merge,
        )
    return {**here, **{name: to_device(part, device) for name, part in there.items()}}
