"""SAM 2 as a segmenter: the ``sam2`` package's own modules, fed with batches of objects.

This is no fork of the package. Its stock predictor loops over objects in Python and keeps the state of every frame;
here its modules are called directly, on tensors that the driver hands in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend

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
from steerseg.segmenters.loading import load_folder, load_from_hub
from steerseg.segmenters.sam2_image_encoder import FusedImageEncoder
from steerseg.segmenters.sam2_step import TrackingStep, attended_memories


class Sam2(FrozenSegmenter):
    """A frozen SAM 2; see :class:`steerseg.segmenters.base.Segmenter` for what its methods take and give.

    Args:
        model: A ``SAM2VideoPredictor``, on its device.
        version: Name and hash of configuration and weights.
        dtype: ``torch.bfloat16`` runs a GPU under autocast; a CPU goes by ``config``.
        config: How frames and clicks reach the model.

    Attributes:
        fused: Whether SAM 2's parts run in fewer passes over memory than the package's own code.
        memory_backend: Computes the attention to memories then; torch's choice where ``None``.
    """

    def __init__(
        self,
        model: Any,
        *,
        version: str,
        dtype: torch.dtype = torch.float32,
        config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(model, version=version, dtype=dtype, config=config)
        self._position_encodings: list[Tensor] = []  # (h * w, 1, C) of each level
        self._level_sizes: list[tuple[int, int]] = []
        self._memory_position: Tensor | None = None
        self._step: TrackingStep | None = None
        self._image_encoder = FusedImageEncoder(model)
        self.fused = self.device.type == "cuda"
        self.memory_backend: SDPBackend | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
    ) -> Sam2:
        """Load SAM 2 from a folder or from the Hugging Face hub.

        Args:
            source: A folder with a configuration (``config.yaml``, or the only ``*.yaml``) and weights
                (``model.safetensors``, or the only ``*.safetensors`` or ``*.pt``), or one of the hub's ids,
                such as ``facebook/sam2.1-hiera-large``.
            device: Where to run.
            dtype: See :class:`Sam2`.
            config: See :class:`Sam2`.

        Raises:
            ModelError: Nothing usable is there, or weights and configuration do not fit.
        """
        device = torch.device(device)
        if Path(source).is_dir():
            model, version = load_folder(Path(source), device)
        else:
            model, version = load_from_hub(str(source), device)
        return cls(model, version=version, dtype=dtype, config=config)

    # ------------------------------------------------------------------ frames

    @property
    def image_size(self) -> int:
        """Side of SAM 2's input in pixels."""
        return int(self.model.image_size)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's features on a GPU: two a number, at strides 4, 8 and 16."""
        side, channels = self.model.image_size, self.model.hidden_dim
        # With an eighth, a quarter and all of the channels.
        return int(2 * channels * ((side // 4) ** 2 // 8 + (side // 8) ** 2 // 4 + (side // 16) ** 2))

    @torch.inference_mode()
    def encode_frames(self, frames: NDArray[np.uint8]) -> list[Features]:
        """(B, H, W, 3) uint8 RGB -> the features of each frame."""
        levels = self._encode_pixels(self._pixels(frames))
        if not self._position_encodings:
            encoding = self.model.image_encoder.neck.position_encoding
            positions = [encoding(level[:1]).to(level.dtype) for level in levels]
            self._level_sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
            self._position_encodings = [level.flatten(2).permute(2, 0, 1) for level in positions]
        return list(zip(*(level.unbind(0) for level in levels), strict=True))

    def _encode_pixels(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) pixels -> per level (B, C, h, w) features."""
        with self._precision():
            if self.fused and self._image_encoder.supported():
                return tuple(self._image_encoder(pixels))
            return tuple(self.model.forward_image(pixels)["backbone_fpn"][-self.model.num_feature_levels :])

    # ------------------------------------------------------------------ prompts

    @property
    def logits_side(self) -> int:
        """Side of the low-resolution mask logits: a quarter of the input's."""
        return 4 * int(self.model.sam_image_embedding_size)

    def decode_clicks(
        self,
        levels: Sequence[Tensor],
        positions: Tensor,
        labels: Tensor,
        earlier: NDArray[np.bool_] | None = None,
    ) -> list[DecodedMask]:
        """Decode one set of clicks a row; a box is its two corners."""
        logits = None if earlier is None else self._earlier_logits(earlier)
        return self._decode(levels, clicks=self._clicks(positions, labels), earlier=logits)

    @torch.inference_mode()
    def decode_correction(
        self,
        levels: Sequence[Tensor],
        positions: Tensor,
        labels: Tensor,
        conditioned: Tensor,
        logits: Tensor,
    ) -> DecodedMask:
        """Decode clicks on a tracked frame with its memories and own logits, as the package's predictor does."""
        clicks = self._clicks(positions, labels)
        with self._precision():
            output = self.model._forward_sam_heads(
                backbone_features=conditioned,
                point_inputs=clicks,
                mask_inputs=logits[:, None].float().clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
                high_res_features=list(levels[:-1]) or None,
                multimask_output=self.model._use_multimask(False, clicks),
            )
        return _answers(output, clicked=True)[0]

    def _clicks(self, positions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Clicks as SAM 2's prompt encoder takes them."""
        return {
            "point_coords": self._click_pixels(positions),
            "point_labels": labels.to(self.device),
        }

    def decode_mask(self, levels: Sequence[Tensor], mask: NDArray[np.bool_]) -> DecodedMask:
        """Take a mask of the frame's size as the truth on its frame."""
        return self._decode(levels, mask=self._mask_pixels(mask))[0]

    @torch.inference_mode()
    def _decode(
        self,
        levels: Sequence[Tensor],
        *,
        clicks: dict[str, Tensor] | None = None,
        mask: Tensor | None = None,
        earlier: Tensor | None = None,
    ) -> list[DecodedMask]:
        """One prompt a row on its frame, without memory of other frames; clicks may correct earlier logits."""
        features = [level.flatten(2).permute(2, 0, 1) for level in levels]  # (h * w, N, C)
        count = features[0].shape[1]
        with self._precision():
            _, output, _, _ = self.model._track_step(
                frame_idx=0,
                is_init_cond_frame=True,
                current_vision_feats=features,
                current_vision_pos_embeds=[part.expand(-1, count, -1) for part in self._position_encodings],
                feat_sizes=self._level_sizes,
                point_inputs=clicks,
                mask_inputs=mask,
                output_dict={},
                num_frames=1,
                track_in_reverse=False,
                prev_sam_mask_logits=earlier,
            )
        return _answers(output, clicked=clicks is not None)

    # ------------------------------------------------------------------ memories and steps

    @torch.inference_mode()
    def encode_memories(self, levels: Sequence[Tensor], decoded: Sequence[DecodedMask]) -> list[ObjectMemory]:
        """Turn decoded masks of one kind into memories, in one call."""
        large = torch.stack([answer.input_logits for answer in decoded])[:, None]
        binary = decoded[0].clicked
        if not binary and self._config.mask_memory == "logits":
            small = torch.stack([answer.logits for answer in decoded])[:, None].float()
            large = F.interpolate(small, size=large.shape[-2:], mode="bilinear", align_corners=False)
            binary = True
        with self._precision(), in_one_pass(self.model, self.fused):
            memories, positions = self.model._encode_new_memory(
                current_vision_feats=[level.flatten(2).permute(2, 0, 1) for level in levels],
                feat_sizes=self._level_sizes,
                pred_masks_high_res=large,
                object_score_logits=torch.stack([answer.presence for answer in decoded]),
                is_mask_from_pts=binary,
            )
        if self._memory_position is None:  # always the same, and captured steps read it where it is
            self._memory_position = positions[-1][:1].clone()
        return [
            ObjectMemory(answer.logits, answer.pointer, answer.presence, memory)
            for answer, memory in zip(decoded, memories, strict=True)
        ]

    @property
    def memory_reach(self) -> MemoryReach:
        """How long memories count, by the model's configuration."""
        spatial = self.model.num_maskmem * max(1, self.model.memory_temporal_stride_for_eval)
        return MemoryReach(spatial, max(spatial, self.model.max_obj_ptrs_in_encoder))

    def attended_memories(self, index: int, prompted: Collection[int], num_frames: int) -> AttendedMemories:
        """Choose the memories of a step, as the package does."""
        return attended_memories(self.model, index, prompted, num_frames)

    def tracking_step(self) -> TrackingStep:
        """The step as a function of tensors, made when the first memory was encoded.

        Raises:
            RuntimeError: No memory was encoded yet.
        """
        if self._step is None:
            if self._memory_position is None:
                raise RuntimeError("no prompt has been remembered yet")
            self._step = TrackingStep(
                self.model,
                self._level_sizes,
                self._position_encodings[-1],
                self._memory_position,
                self._step_precision,
            )
            self.captured_steps = CapturedCalls(self._step)
        self._step.fused, self._step.backend = self.fused, self.memory_backend
        return self._step


def _answers(output: Sequence[Any], *, clicked: bool) -> list[DecodedMask]:
    """The output of SAM 2's heads, row by row."""
    _, _, ious, logits, large, pointers, presence = output
    # With several masks per prompt, SAM 2 has chosen the one with the largest predicted overlap.
    best = ious.float().amax(dim=1).clamp(0, 1).tolist()
    masks = (logits[:, 0] > 0).cpu()
    return [
        DecodedMask(best[i], logits[i, 0], masks[i], large[i, 0], pointers[i], presence[i], clicked)
        for i in range(len(best))
    ]
