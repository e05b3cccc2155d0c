"""InternVL3 (the ``-hf`` checkpoints): square tiles, four patches a token, a video as a list of pictures."""

from __future__ import annotations

import math

import torch
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from steerseg.lvlm.families.base import OWN_RULE, GridRule, Sizes, TiledFamily
from steerseg.lvlm.vision import Timing, VisionFeatures, VisionKind


class InternVL(TiledFamily):
    """A frame of a video is one tile. A picture is several, tile after tile, and a thumbnail off the grid."""

    model_type = "internvl"
    temporal_merge = 1
    system = (
        "你是书生·万象，英文名是InternVL，"
        "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
    )
    spare_token = "<quad>"
    full_precision = ("vision_tower", "multi_modal_projector")

    @property
    def _tile(self) -> tuple[int, int]:
        """Side of a tile in pixels and in tokens."""
        return self.model.config.vision_config.image_size[0], math.isqrt(self.processor.image_seq_length)

    def sizes(
        self, height: int, width: int, *, video_tokens: int, frame_tokens: int, rule: GridRule = OWN_RULE
    ) -> Sizes:
        """The tiles are chosen by aspect ratio as the stock processor does; the picture is stretched over them."""
        side, side_tokens = self._tile
        limit = max(1, frame_tokens // side_tokens**2)
        columns, rows = get_optimal_tiled_canvas((height, width), (side, side), 1, limit)
        return Sizes((side, side), (rows * side, columns * side))

    def encode(self, pixels: torch.Tensor, kind: VisionKind, timing: Timing) -> VisionFeatures:
        """Frames and tiles pass the vision tower one by one, all as pictures."""
        side, side_tokens = self._tile
        rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
        if kind == "video":
            processed = self.processor.video_processor([pixels], do_sample_frames=False, return_tensors="pt")
            values = processed["pixel_values_videos"][0]
            count, grid = 1, (len(pixels), side_tokens, side_tokens)
        else:
            processed = self.processor.image_processor(
                list(pixels),
                crop_to_patches=True,
                min_patches=1,
                max_patches=rows * columns,
                return_tensors="pt",
            )
            values = processed["pixel_values"]
            count, grid = len(pixels), (1, rows * side_tokens, columns * side_tokens)
        output = self.model.model.get_image_features(self.pixels(values), return_dict=True)
        tokens = output.pooler_output.reshape(count, -1, output.pooler_output.shape[-1])
        return VisionFeatures(kind, tokens, grid, timing.seconds_per_slice, self.expansion(kind, processed))
