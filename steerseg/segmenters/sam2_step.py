"""One frame of SAM 2's tracking as a function of tensors, which never waits for the host in between.

The package's own step looks its memories up in dictionaries and makes small tensors of Python numbers on the way. Here
memories are chosen before (:func:`attended_memories`). The rest (:class:`TrackingStep`) is the package's own
attention, decoder and memory encoder on tensors that are handed in, which can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe, select_closest_cond_frames
from torch import Tensor
from torch.nn.attention import SDPBackend

from steerseg.segmenters.base import AttendedMemories
from steerseg.segmenters.fused import in_one_pass
from steerseg.segmenters.memory_attention import of_sam2


def attended_memories(model: Any, index: int, prompted: Collection[int], num_frames: int) -> AttendedMemories:
    """Choose the memories that SAM 2 attends to, on a path whose earlier indices are all known.

    The choice is that of the package's ``SAM2Base._prepare_memory_conditioned_features``.

    Args:
        model: A ``SAM2Base``.
        index: Of the step, counted from the path's start.
        prompted: Indices with a prompt, in their order; negative ones lie behind the start.
        num_frames: Of the video.
    """
    selected, others = select_closest_cond_frames(
        index, dict.fromkeys(prompted), model.max_cond_frames_in_attn
    )

    def known(other: int) -> bool:
        return other in others or (0 <= other < index and other not in selected)

    spatial = [(0, other) for other in selected]
    stride = model.memory_temporal_stride_for_eval
    for position in range(1, model.num_maskmem):
        before = model.num_maskmem - position
        other = index - 1 if before == 1 else ((index - 2) // stride - (before - 2)) * stride
        if known(other):
            spatial.append((position, other))
    most = min(num_frames, model.max_obj_ptrs_in_encoder)
    pointers: list[tuple[int, int]] = []
    if model.use_obj_ptrs_in_encoder:
        signed = model.use_signed_tpos_enc_to_obj_ptrs
        pointers += [
            (index - other if signed else abs(index - other), other)
            for other in selected
            if other <= index or not model.only_obj_ptrs_in_the_past_for_eval
        ]
        recent = range(1, min(most, index + 1))
        pointers += [(distance, index - distance) for distance in recent if known(index - distance)]
    return AttendedMemories(tuple(spatial), tuple(pointers), most - 1)


@dataclass(frozen=True)
class _Form:
    """All of a step that is no tensor.

    Attributes:
        levels: Number of levels of image features.
        positions: Temporal position of each spatial memory.
        span: Divisor of the object pointers' distances.
        fused: Whether it runs in fewer passes over memory than the package's own code.
        backend: Computes the attention to memories then.
    """

    levels: int
    positions: tuple[int, ...]
    span: int
    fused: bool
    backend: SDPBackend | None


class TrackingStep:
    """Tracks N objects on one frame each; callable as :data:`steerseg.runtime.cuda_graphs.Function`.

    Args:
        model: A ``SAM2Base``.
        sizes: (height, width) of each level of image features.
        image_position: (h * w, 1, C) position encoding of the lowest level.
        memory_position: (1, C_mem, h_mem, w_mem) position encoding of a spatial memory.
        precision: Makes the context under which the package's parts run.

    Attributes:
        fused: Whether memory attention and norms take fewer passes over memory than the package's own code.
        backend: Computes the attention to memories then; torch's choice where ``None``.
    """

    def __init__(
        self,
        model: Any,
        sizes: Sequence[tuple[int, int]],
        image_position: Tensor,
        memory_position: Tensor,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = model
        self._sizes = list(sizes)
        self._image_position = image_position
        self._memory_position = memory_position
        self._precision = precision
        self._memory_attention = of_sam2(model.memory_attention, len(image_position))
        self.fused = False
        self.backend: SDPBackend | None = None

    def arguments(
        self,
        attended: AttendedMemories,
        levels: Sequence[Tensor],
        memories: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> tuple[Hashable, list[Tensor], list[Tensor]]:
        """Order the arguments of a step as :meth:`__call__` takes them.

        Args:
            attended: The chosen memories.
            levels: (N, C, h, w) image features, lowest resolution last.
            memories: (N, C_mem, h_mem, w_mem) of each entry of ``attended.spatial``.
            pointers: (N, C) of each entry of ``attended.pointers``.
            distances: (P,) those of ``attended.pointers``, on the device.
        """
        positions = tuple(position for position, _ in attended.spatial)
        fused = self.fused and self._memory_attention is not None
        form = _Form(len(levels), positions, attended.span, fused, self.backend if fused else None)
        return form, [*levels, *memories, *pointers], [distances]

    def __call__(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One step.

        Returns:
            (N, h, w) float32 mask logits; (N, C) object pointers; (N, C_mem, h_mem, w_mem) spatial memories;
            (N,) float32 probability that the object is visible.
        """
        assert isinstance(key, _Form)
        end = key.levels + len(key.positions)
        levels, memories, pointers = rows[: key.levels], rows[key.levels : end], rows[end:]
        model = self._model
        with self._precision(), in_one_pass(model, key.fused):
            features = [level.flatten(2).permute(2, 0, 1) for level in levels]
            conditioned = self._attend(features[-1], memories, key, pointers, shared[0])
            _, _, _, logits, large, pointer, presence = model._forward_sam_heads(
                backbone_features=conditioned,
                high_res_features=list(levels[:-1]) or None,
                multimask_output=model._use_multimask(False, None),
            )
            memory, _ = model._encode_new_memory(
                current_vision_feats=features,
                feat_sizes=self._sizes,
                pred_masks_high_res=large,
                object_score_logits=presence,
                is_mask_from_pts=False,
            )
        return logits[:, 0].float(), pointer, memory, presence[:, 0].float().sigmoid()

    def attend(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The first part of a step alone: image features that have attended to the memories, (N, C, h, w)."""
        assert isinstance(key, _Form)
        end = key.levels + len(key.positions)
        with self._precision(), in_one_pass(self._model, key.fused):
            features = rows[key.levels - 1].flatten(2).permute(2, 0, 1)
            return self._attend(features, rows[key.levels : end], key, rows[end:], shared[0])

    def _attend(
        self,
        features: Tensor,
        memories: Sequence[Tensor],
        form: _Form,
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> Tensor:
        """Image features (h * w, N, C) that have attended to the memories: (N, C, h, w)."""
        model = self._model
        count, width = features.shape[1:]
        spatial_position = self._memory_position[0].flatten(1).T
        tokens = [memory.flatten(2).transpose(1, 2) for memory in memories]
        encodings = [
            spatial_position + model.maskmem_tpos_enc[model.num_maskmem - 1 - position, 0]
            for position in form.positions
        ]
        pointer_tokens = 0
        if pointers:
            parts = width // model.mem_dim
            # (N, P, C) -> (N, P * parts, C_mem)
            tokens.append(torch.stack(list(pointers), dim=1).reshape(count, -1, model.mem_dim))
            encodings.append(self._pointer_encodings(distances, form.span, width).repeat_interleave(parts, 0))
            pointer_tokens = len(pointers) * parts
        if form.fused and self._memory_attention is not None:
            position = self._image_position[:, 0]
            conditioned = self._memory_attention(
                features.transpose(0, 1), position, tokens, encodings, pointer_tokens, form.backend
            ).transpose(0, 1)
        else:
            conditioned = model.memory_attention(
                curr=[features],
                curr_pos=[self._image_position.expand(-1, count, -1)],
                memory=torch.cat(tokens, dim=1).transpose(0, 1),
                memory_pos=torch.cat(encodings)[:, None].expand(-1, count, -1),
                num_obj_ptr_tokens=pointer_tokens,
            )
        return conditioned.permute(1, 2, 0).view(count, width, *self._sizes[-1])

    def _pointer_encodings(self, distances: Tensor, span: int, width: int) -> Tensor:
        """(P, C_mem), by the pointers' distances in time."""
        model = self._model
        if not model.add_tpos_enc_to_obj_ptrs:
            return distances.new_zeros(len(distances), model.mem_dim)
        channels = width if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
        encoding: Tensor = model.obj_ptr_tpos_proj(get_1d_sine_pe(distances / span, dim=channels))
        return encoding
