"""Segmenters of ``transformers``: EdgeTAM, the tracker of SAM 3, and SAM 2.

Their sessions take one object at a time and keep every frame. Here the models' own modules are called on batches of
objects, on tensors that the driver hands in; see :mod:`steerseg.segmenters.hf_step`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from steerseg.config import SegmenterConfig
from steerseg.runtime.cuda_graphs import CapturedCalls
from steerseg.segmenters.base import (
    AttendedMemories,
    DecodedMask,
    Features,
    MemoryReach,
    ObjectMemory,
)
from steerseg.segmenters.frozen import LARGEST_LOGIT, FrozenSegmenter
from steerseg.segmenters.fused import in_one_pass
from steerseg.segmenters.hf_mask_decoder import Heads, MaskDecoder, at_side, blend_pointers
from steerseg.segmenters.hf_perceiver import Perceiver
from steerseg.segmenters.hf_step import VideoModelStep, attended_memories, remember
from steerseg.segmenters.pixels import PixelStatistics

_MASK_LOGIT = 10.0  # of a pixel of a mask that is the truth on its frame


class VideoModel(FrozenSegmenter):
    """SAM 2 of ``transformers``; see :class:`steerseg.segmenters.base.Segmenter` for its methods.

    A model that differs is a subclass, which says how it keeps and attends to memories.

    Args:
        model: A ``Sam2VideoModel``, on its device.
        version: Name and hash of configuration and weights.
        dtype: ``torch.bfloat16`` runs a GPU under autocast; a CPU goes by ``config``.
        config: How frames and clicks reach the model.

    Attributes:
        architecture: Name of the model's class in ``transformers``.
        fused: Whether steps run in fewer passes over memory than the library's own code.
        memory_dtype: Of the spatial memories that are kept; the library keeps them in half precision.
    """

    architecture: ClassVar[str] = "Sam2VideoModel"
    memory_dtype = torch.bfloat16

    def __init__(
        self,
        model: Any,
        *,
        version: str,
        dtype: torch.dtype = torch.float32,
        config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(model, version=version, dtype=dtype, config=config)
        height, width = self._sizes[-1]
        shape = torch.Size((1, model.mem_dim, height, width))
        with torch.inference_mode():
            # In float32 whatever the precision: positions of a large picture differ by less than bfloat16 can say.
            image = model.vision_encoder.neck.position_encoding(
                torch.Size((1, model.hidden_dim, height, width)), self.device, torch.float32
            )
            self._memory_position: Tensor = model.memory_encoder.position_encoding(
                shape, self.device, torch.float32
            ).clone()
            self._decode = MaskDecoder(model, self._step_precision)
            self._step = VideoModelStep(
                model,
                decode=self._decode,
                compress=self._compress,
                image_position=image.flatten(2).permute(2, 0, 1).clone(),
                memory_position=self._token_positions(),
                attention_arguments=self._attention_arguments,
                precision=self._step_precision,
            )
        self.captured_steps = CapturedCalls(self._step)
        self.fused = self.device.type == "cuda"

    # ------------------------------------------------------------------ where models differ

    def _compress(self, memory: Tensor) -> Tensor:
        """(N, C_mem, h, w) -> the (N, L, C_mem) tokens that are kept of a memory."""
        return memory.flatten(2).transpose(1, 2).to(self.memory_dtype)

    def _token_positions(self) -> Tensor:
        """(L, 1, C_mem) position encoding of a memory's tokens."""
        return self._memory_position.flatten(2).permute(2, 0, 1)

    @staticmethod
    def _attention_arguments(memories: int) -> tuple[int, ...]:
        """Further arguments of the memory attention, for a number of memories."""
        return ()

    # ------------------------------------------------------------------ frames

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each level of features."""
        return [(height, width) for height, width in self.model.backbone_feature_sizes]

    @property
    def image_size(self) -> int:
        """Side of the model's input in pixels."""
        return int(self.model.prompt_encoder.input_image_size)

    @property
    def logits_side(self) -> int:
        """Side of the low-resolution mask logits."""
        return int(self.model.prompt_encoder.mask_input_size[0])

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's features on a GPU, two a number: an eighth, a quarter and all of the channels."""
        shares = (8, 4, 1)
        return sum(
            2 * height * width * self.model.hidden_dim // share
            for share, (height, width) in zip(shares, self._sizes, strict=True)
        )

    @torch.inference_mode()
    def encode_frames(self, frames: NDArray[np.uint8]) -> list[Features]:
        """(B, H, W, 3) uint8 RGB -> the features of each frame."""
        with self._precision():
            levels = self.model.get_image_features(self._pixels(frames)).fpn_hidden_states
        # Each is (h * w, B, C).
        shaped = [
            level.permute(1, 2, 0).unflatten(2, size) for level, size in zip(levels, self._sizes, strict=True)
        ]
        return list(zip(*(level.unbind(0) for level in shaped), strict=True))

    # ------------------------------------------------------------------ prompts

    @torch.inference_mode()
    def decode_clicks(
        self,
        levels: Sequence[Tensor],
        positions: Tensor,
        labels: Tensor,
        earlier: NDArray[np.bool_] | None = None,
    ) -> list[DecodedMask]:
        """Decode one set of clicks a row; a box is its two corners."""
        with self._precision():
            heads = self._decode(
                levels,
                levels[-1] + self.model.no_memory_embedding.view(1, -1, 1, 1),
                multimask=self._multimask(labels.shape[1], first=True),
                clicks=(self._click_pixels(positions), labels.to(self.device)),
                logits=None if earlier is None else self._earlier_logits(earlier),
            )
        return self._answers(heads)

    @torch.inference_mode()
    def decode_correction(
        self,
        levels: Sequence[Tensor],
        positions: Tensor,
        labels: Tensor,
        conditioned: Tensor,
        logits: Tensor,
    ) -> DecodedMask:
        """Decode clicks on a tracked frame with its memories and own logits, as SAM 2's own predictor does."""
        with self._precision():
            heads = self._decode(
                levels,
                conditioned,
                multimask=self._multimask(labels.shape[1], first=False),
                clicks=(self._click_pixels(positions), labels.to(self.device)),
                logits=logits[:, None].float().clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
            )
        return self._answers(heads)[0]

    @torch.inference_mode()
    def decode_mask(self, levels: Sequence[Tensor], mask: NDArray[np.bool_]) -> DecodedMask:
        """Take a mask of the frame's size as the truth on its frame; only its pointer is decoded."""
        given = self._mask_pixels(mask)
        visible = given.flatten(1).any(dim=1, keepdim=True)
        large = (2 * given - 1) * _MASK_LOGIT
        with self._precision():
            heads = self._decode(
                levels,
                levels[-1],
                multimask=True,
                logits=self.model.mask_downsample(given),
            )
            pointer = blend_pointers(self.model, heads.pointers, visible)
        logits = at_side(large, self.logits_side, antialias=True)[0, 0]
        presence = (2 * visible.float() - 1) * _MASK_LOGIT
        return DecodedMask(
            1.0, logits, (logits > 0).cpu(), large[0, 0], pointer[0], presence[0], clicked=False
        )

    def _multimask(self, points: int, *, first: bool) -> bool:
        """Whether the best of three masks answers a number of clicks, the corners of a box counted."""
        config = self.model.config
        return bool(
            config.multimask_output_in_sam
            and (first or config.multimask_output_for_tracking)
            and config.multimask_min_pt_num <= points <= config.multimask_max_pt_num
        )

    def _answers(self, heads: Heads) -> list[DecodedMask]:
        best = heads.ious.float().clamp(0, 1).tolist()
        masks = (heads.logits > 0).cpu()
        large = at_side(heads.logits[:, None].float(), self.image_size)[:, 0]
        return [
            DecodedMask(
                best[i], heads.logits[i], masks[i], large[i], heads.pointers[i], heads.presence[i], True
            )
            for i in range(len(best))
        ]

    # ------------------------------------------------------------------ memories and steps

    @torch.inference_mode()
    def encode_memories(self, levels: Sequence[Tensor], decoded: Sequence[DecodedMask]) -> list[ObjectMemory]:
        """Turn decoded masks into memories, in one call; given masks are made binary too."""
        large = torch.stack([answer.input_logits for answer in decoded])[:, None]
        presence = torch.stack([answer.presence for answer in decoded])
        with self._precision(), in_one_pass(self.model, self.fused):
            tokens = self._compress(remember(self.model, levels[-1], large, presence, binary=True))
        return [
            ObjectMemory(answer.logits, answer.pointer, answer.presence, memory)
            for answer, memory in zip(decoded, tokens, strict=True)
        ]

    @property
    def memory_reach(self) -> MemoryReach:
        """How long memories count, by the model's configuration."""
        spatial = int(self.model.num_maskmem)
        return MemoryReach(spatial, max(spatial, int(self.model.config.max_object_pointers_in_encoder)))

    def attended_memories(self, index: int, prompted: Collection[int], num_frames: int) -> AttendedMemories:
        """Choose the memories of a step, as the library does."""
        return attended_memories(self.model.config, index, prompted, num_frames)

    def tracking_step(self) -> VideoModelStep:
        """The step as a function of tensors."""
        self._step.fused = self.fused
        return self._step


class Sam3Tracker(VideoModel):
    """The tracker of SAM 3: SAM 2's parts behind another image encoder."""

    architecture = "Sam3TrackerVideoModel"
    statistics = PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class EdgeTam(VideoModel):
    """EdgeTAM: a small image encoder, and memories that are condensed to a few tokens."""

    architecture = "EdgeTamVideoModel"
    memory_dtype = torch.float32

    def __init__(
        self,
        model: Any,
        *,
        version: str,
        dtype: torch.dtype = torch.float32,
        config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
    ) -> None:
        _join_branches(model.vision_encoder.backbone)
        super().__init__(model, version=version, dtype=dtype, config=config)
        self._perceiver = Perceiver(model.spatial_perceiver, self._memory_position)

    def _compress(self, memory: Tensor) -> Tensor:
        """Condense N memories at once; the library's perceiver gives the same for one, and refuses several."""
        return self._perceiver(memory).to(self.memory_dtype)

    def _token_positions(self) -> Tensor:
        """Tokens without a place come first, then those of a grid."""
        perceiver = self.model.spatial_perceiver
        side = math.isqrt(perceiver.num_latents_2d)
        shape = torch.Size((1, self.model.mem_dim, side, side))
        grid = perceiver.positional_encoding(shape, self.device, torch.float32).flatten(2)
        return F.pad(grid, (perceiver.num_latents_1d, 0)).permute(2, 0, 1)

    @staticmethod
    def _attention_arguments(memories: int) -> tuple[int, ...]:
        return (memories,)


def _join_branches(backbone: Any) -> None:
    """Let each block of a RepViT be one convolution in place of three and their norms: the same, a quarter faster."""
    if hasattr(backbone, "timm_model"):
        from timm.utils.model import (
            reparameterize_model,
        )  # only EdgeTAM's own image encoder needs the package

        reparameterize_model(backbone.timm_model, inplace=True)


KINDS: dict[str, type[VideoModel]] = {
    "sam2_video": VideoModel,
    "edgetam_video": EdgeTam,
    "sam3_tracker_video": Sam3Tracker,
    "sam3_video": Sam3Tracker,
}
"""Segmenters by ``model_type`` of their configuration. SAM 3's own checkpoint holds detector and tracker."""
