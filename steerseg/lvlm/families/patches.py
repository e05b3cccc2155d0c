"""Layouts of patches for vision towers that would count on the device and wait there for each number."""

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

from steerseg.runtime.lru import LruCache
from steerseg.runtime.memory import to_device

_KEPT = 8  # layouts of a model: videos of a project have few sizes

Layout = dict[str, torch.Tensor]
"""Tensors by the names under which a vision tower takes them."""

_layouts: WeakKeyDictionary[Any, LruCache[object, Layout]] = WeakKeyDictionary()


def patch_layout(model: Any, kind: str, grids: torch.Tensor) -> Layout:
    """The layout as a Qwen model's ``get_image_features`` or ``get_video_features`` takes it by keywords.

    Args:
        model: Its vision tower is ``model.model.visual``.
        kind: Image or video.
        grids: (N, 3) slices, rows and columns of patches, on the host.
    """
    layouts = _layouts.setdefault(model, LruCache(_KEPT))
    key = model.device, *grids.flatten().tolist()
    layout = layouts.get(key)
    if layout is None:
        layout = _make_layout(model.model.visual, grids, model.device)
        layouts.put(key, layout)
    return {f"{kind}_{name}": part for name, part in layout.items()}


def _make_layout(tower: Any, grids: torch.Tensor, device: torch.device) -> Layout:
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
