"""Qwen2-VL and Qwen2.5-VL: pictures of any size, two frames of a video in each slice, M-RoPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from steerseg.lvlm.families.base import OWN_RULE, Family, GridRule, Sizes
from steerseg.lvlm.families.patches import patch_layout
from steerseg.lvlm.families.positions import text_after_vision
from steerseg.lvlm.vision import Timing, VisionFeatures, VisionKind


class Qwen2VL(Family):
    """Tokens lie row by row on the grid; positions are three-dimensional and follow from grid and token types."""

    model_type = "qwen2_vl"
    temporal_merge = 2
    spare_token = "<|quad_start|>"
    opening = "<|vision_start|>"
    closing = "<|vision_end|>"
    full_precision = ("visual",)

    @property
    def _merge(self) -> int:
        return int(self.model.config.vision_config.spatial_merge_size)

    def sizes(
        self, height: int, width: int, *, video_tokens: int, frame_tokens: int, rule: GridRule = OWN_RULE
    ) -> Sizes:
        """A picture has exactly twice the video's grid in each direction (DecAF), so that the maps align."""
        side = self.model.config.vision_config.patch_size * self._merge
        rows, columns = rule.rows_and_columns(height, width, video_tokens, side)
        return Sizes((rows * side, columns * side), (2 * rows * side, 2 * columns * side))

    def encode(self, pixels: torch.Tensor, kind: VisionKind, timing: Timing) -> VisionFeatures:
        """An odd number of video frames is filled up by repeating the last."""
        if kind == "video":
            processed = self.processor.video_processor(
                videos=[pixels],
                do_resize=False,  # already chosen and resized
                do_sample_frames=False,
                video_metadata=[timing.metadata],
                return_metadata=True,
                return_tensors="pt",
            )
            values, grids = processed["pixel_values_videos"], processed["video_grid_thw"]
        else:
            processed = self.processor.image_processor(list(pixels), do_resize=False, return_tensors="pt")
            values, grids = processed["pixel_values"], processed["image_grid_thw"]
        encode = getattr(self.model.model, f"get_{kind}_features")
        output = encode(self.pixels(values), grids, return_dict=True, **patch_layout(self.model, kind, grids))
        levels = getattr(output, "deepstack_features", None)
        time, height, width = grids[0].tolist()
        return VisionFeatures(
            kind=kind,
            tokens=torch.stack(list(output.pooler_output)),
            grid=(time, height // self._merge, width // self._merge),
            seconds_per_slice=timing.seconds_per_slice,
            text=self.expansion(kind, processed),
            deep=torch.stack([torch.stack(list(level)) for level in levels], dim=1) if levels else None,
        )

    def inputs(self, ids: torch.Tensor, vision: VisionFeatures) -> dict[str, Any]:
        """Token types and grids, without which positions would silently be those of plain text."""
        time, height, width = vision.grid
        patches = torch.tensor([[time, height * self._merge, width * self._merge]] * len(ids))
        output = BaseModelOutputWithDeepstackFeatures(pooler_output=tuple(vision.tokens))
        if vision.deep is not None:
            output.deepstack_features = [tuple(level) for level in vision.deep.unbind(dim=1)]
        visual = ids == self.processor.tokenizer.convert_tokens_to_ids(self.token(vision.kind))
        return {
            "mm_token_type_ids": visual.long() * (2 if vision.kind == "video" else 1),
            f"{vision.kind}_grid_thw": patches.to(ids.device),
            "mm_encoder_outputs": {vision.kind: output},
        }

    def positions(self, ids: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """In time, height and width: (3, B, S). Text begins after the vision in every dimension."""
        return text_after_vision(self.model.model.get_rope_index(**inputs)[0], inputs["mm_token_type_ids"])


class Qwen2_5VL(Qwen2VL):  # noqa: N801 (the model's own name)
    """Positions in time follow from the seconds between slices."""

    model_type = "qwen2_5_vl"

    def inputs(self, ids: torch.Tensor, vision: VisionFeatures) -> dict[str, Any]:
        """The seconds between slices as well; without them the model assumes one second."""
        inputs = super().inputs(ids, vision)
        if vision.kind == "video":
            inputs["second_per_grid_ts"] = torch.tensor(
                [vision.seconds_per_slice] * len(ids), device=ids.device
            )
        return inputs
