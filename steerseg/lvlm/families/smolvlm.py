"""SmolVLM2: square tiles whose patches are shuffled into few tokens, a video as pictures with their times as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from transformers.models.smolvlm.image_processing_smolvlm import get_resize_output_image_size

from steerseg.lvlm.families.base import OWN_RULE, GridRule, Sizes, TiledFamily
from steerseg.lvlm.vision import Timing, VisionFeatures, VisionKind

_BYTES = {"do_rescale": False, "do_normalize": False, "do_pad": False, "return_tensors": "pt"}
"""What a processor is told so that it resizes and cuts only. All pictures have as many tiles, so nothing is padded."""


class SmolVLM(TiledFamily):
    """A frame of a video is one tile. A picture is several, tile after tile, and an overview off the grid."""

    model_type = "smolvlm"
    temporal_merge = 1
    spare_token = "<|reserved_special_token_0|>"
    opening = " "  # after the role of a turn that begins with a video
    full_precision = ("vision_model", "connector")
    packages: ClassVar[Mapping[str, str]] = {"num2words": "smolvlm"}  # writes the number of frames as a word

    @property
    def _tile(self) -> tuple[int, int]:
        """Side of a tile in pixels and in tokens."""
        side = self.processor.image_processor.max_image_size["longest_edge"]
        return int(side), math.isqrt(self.processor.image_seq_len)

    def sizes(
        self, height: int, width: int, *, video_tokens: int, frame_tokens: int, rule: GridRule = OWN_RULE
    ) -> Sizes:
        """The sizes that the stock processor resizes to first, in the aspect ratio; it then stretches to whole tiles.

        A picture has as many tiles along its longer edge as the budget allows, at most those of the processor.
        """
        side, side_tokens = self._tile
        pictures, videos = self.processor.image_processor, self.processor.video_processor
        longest = range(side, int(pictures.size["longest_edge"]) + 1, side)

        def tokens(edge: int) -> int:
            told = {"size": {"longest_edge": edge}}
            _, rows, columns = pictures.get_number_of_image_patches(height, width, told)
            return max(1, int(rows * columns)) * side_tokens**2

        edge = max((edge for edge in longest if tokens(edge) <= frame_tokens), default=side)
        frame = torch.empty(height, width, device="meta")
        video = get_resize_output_image_size(frame, int(videos.size["longest_edge"]))
        return Sizes(video, get_resize_output_image_size(frame, edge))

    def encode(self, pixels: torch.Tensor, kind: VisionKind, timing: Timing) -> VisionFeatures:
        """Frames and tiles pass the vision tower one by one, all as pictures.

        The processor resizes where its filter is, and normalises where the model is.
        """
        _, side_tokens = self._tile
        if kind == "video":
            processed = self.processor.video_processor(
                [pixels],
                video_metadata=[timing.metadata],
                do_sample_frames=False,
                return_metadata=True,
                **_BYTES,
            )
            count, grid = 1, (len(pixels), side_tokens, side_tokens)
        else:
            processed = self.processor.image_processor(
                [[picture] for picture in pixels],
                size={"longest_edge": max(pixels.shape[2:])},
                return_row_col_info=True,
                **_BYTES,
            )
            rows, columns = (max(1, processed[name][0][0]) for name in ("rows", "cols"))
            count, grid = len(pixels), (1, rows * side_tokens, columns * side_tokens)
        output = self.model.model.get_image_features(
            self.pixels(self._normalised(kind, processed["pixel_values"])), return_dict=True
        )
        tokens = torch.stack(output.pooler_output).reshape(count, -1, output.pooler_output[0].shape[-1])
        return VisionFeatures(kind, tokens, grid, timing.seconds_per_slice, self.expansion(kind, processed))

    def _normalised(self, kind: VisionKind, pixels: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) uint8 -> float32 on the model's device: the last step of the processor."""
        processor = self.processor.video_processor if kind == "video" else self.processor.image_processor
        normalised: torch.Tensor = processor.rescale_and_normalize(
            pixels.to(self.model.device),
            do_rescale=processor.do_rescale,
            rescale_factor=processor.rescale_factor,
            do_normalize=processor.do_normalize,
            image_mean=processor.image_mean,
            image_std=processor.image_std,
        )
        return normalised
