"""LLaVA-OneVision: a picture is an overview and square tiles, with a newline token after each row of its grid."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    unpad_image,
)

from steerseg.errors import ModelError
from steerseg.lvlm.families.base import OWN_RULE, Family, GridRule, Sizes
from steerseg.lvlm.vision import Timing, VisionFeatures, VisionKind


class LlavaOneVision(Family):
    """The grid of a picture is that of its tiles, without padding. Overview and newlines are off it."""

    model_type = "llava_onevision"
    temporal_merge = 1
    system = "You are a helpful assistant."
    full_precision = ("vision_tower", "multi_modal_projector")

    def soft_token(self, kind: VisionKind) -> str:
        """The vocabulary has no special token to spare, but a chat about pictures has none of a video."""
        return self.placeholder("video" if kind == "image" else "image")

    @property
    def _tile(self) -> tuple[int, int]:
        """Side of a tile in pixels and in visual tokens."""
        vision = self.model.config.vision_config
        return int(vision.image_size), int(vision.image_size // vision.patch_size)

    def sizes(
        self, height: int, width: int, *, video_tokens: int, frame_tokens: int, rule: GridRule = OWN_RULE
    ) -> Sizes:
        """Video frames are one tile, pooled; a picture keeps its aspect ratio on the best canvas within budget."""
        side, side_tokens = self._tile
        most = int(self.model.config.vision_aspect_ratio.removeprefix("anyres_max_"))  # more are scaled down
        limit = min(most, max(1, frame_tokens // side_tokens**2))
        pinpoints = self.model.config.image_grid_pinpoints
        canvases = [pinpoint for pinpoint in pinpoints if math.prod(pinpoint) <= limit * side**2]
        canvas = select_best_resolution((height, width), canvases)
        scale = min(canvas[0] / height, canvas[1] / width)

        def whole(length: int, across: int) -> int:
            """Pixels of a whole number of visual tokens, with equal margins to the canvas on both sides."""
            total = across // side * side_tokens
            rows = total - 2 * round((total - length * scale * side_tokens / side) / 2)
            pixels: int = math.ceil(max(rows, 2 - total % 2) * side / side_tokens)
            return pixels

        return Sizes((side, side), (whole(height, canvas[0]), whole(width, canvas[1])))

    def encode(self, pixels: torch.Tensor, kind: VisionKind, timing: Timing) -> VisionFeatures:
        """Videos end with one newline token; pictures begin with the overview."""
        side, side_tokens = self._tile
        model = self.model.model
        if kind == "video":
            processed = self.processor.video_processor([pixels], do_sample_frames=False, return_tensors="pt")
            output = model.get_video_features(self.pixels(processed["pixel_values_videos"]), return_dict=True)
            pooled = math.ceil(side_tokens / 2)
            grid, extra = (len(pixels), pooled, pooled), 1
        else:
            processed = self.processor.image_processor(list(pixels), return_tensors="pt")
            values, sizes = self.pixels(processed["pixel_values"]), processed["image_sizes"]
            output = model.get_image_features(values, sizes, return_dict=True)
            size = tuple(pixels.shape[2:])
            rows, columns = get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, side)
            canvas = torch.empty(1, rows * side_tokens, columns * side_tokens)
            height, width = unpad_image(canvas, size).shape[1:]
            grid, extra = (1, height, width), side_tokens**2 + height
        tokens = torch.stack(list(output.pooler_output))
        if tokens.shape[1] != math.prod(grid) + extra:
            raise ModelError(
                f"frames of {tuple(pixels.shape[2:])} pixels became {tokens.shape[1]} tokens, which are not the "
                f"{math.prod(grid)} of a grid and {extra} more; show them at the sizes that the family gives."
            )
        return VisionFeatures(kind, tokens, grid, timing.seconds_per_slice, self.expansion(kind, processed))

    def token_indices(self, vision: VisionFeatures) -> torch.Tensor:
        """Behind the overview, without each row's newline."""
        if vision.kind == "video":
            return super().token_indices(vision)
        _, height, width = vision.grid
        rows = torch.arange(height)[:, None] * (width + 1)
        return self._tile[1] ** 2 + (rows + torch.arange(width)).flatten()

    def inputs(self, ids: torch.Tensor, vision: VisionFeatures) -> dict[str, Any]:
        """Pictures come as a list, for theirs may be of several sizes."""
        if vision.kind == "video":
            return super().inputs(ids, vision)
        output = BaseModelOutputWithPooling(pooler_output=tuple(vision.tokens))
        return {"mm_encoder_outputs": {"image": output}}
