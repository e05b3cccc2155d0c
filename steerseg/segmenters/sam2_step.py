"""One frame of SAM 2's tracking as a function of tensors, without a word from the host in between.

The package's own step looks its memories up in dictionaries and makes small tensors of Python numbers on the way. Here
what is looked up is settled before (:func:`attended`), and the rest (:class:`TrackingStep`) is the package's own
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

from steerseg.segmenters.fused import norms_in_one_pass
from steerseg.segmenters.sam2_memory_attention import FewerPasses


@dataclass(frozen=True)
class Attended:
    """Which memories a frame attends to, as ``SAM2Base._prepare_memory_conditioned_features`` chooses them.

    Attributes:
        spatial: (place in time of its encoding, place on the path) of each spatial memory.
        pointers: (distance in time, place on the path) of each object pointer.
        span: What distances are divided by.
    """

    spatial: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]
    span: int


def attended(model: Any, place: int, prompted: Collection[int], num_frames: int) -> Attended:
    """What SAM 2 attends to at ``place`` of a path whose earlier places are all known.

    Args:
        model: A ``SAM2Base``.
        place: Where it is, counted from the path's start.
        prompted: Places with a prompt, in their order; some may lie behind the start.
        num_frames: Of the video.
    """
    selected, others = select_closest_cond_frames(
        place, dict.fromkeys(prompted), model.max_cond_frames_in_attn
    )

    def known(other: int) -> bool:
        return other in others or (0 <= other < place and other not in selected)

    spatial = [(0, other) for other in selected]
    stride = model.memory_temporal_stride_for_eval
    for position in range(1, model.num_maskmem):
        before = model.num_maskmem - position
        other = place - 1 if before == 1 else ((place - 2) // stride - (before - 2)) * stride
        if known(other):
            spatial.append((position, other))
    most = min(num_frames, model.max_obj_ptrs_in_encoder)
    pointers: list[tuple[int, int]] = []
    if model.use_obj_ptrs_in_encoder:
        for other in selected:
            if other <= place or not model.only_obj_ptrs_in_the_past_for_eval:
                distance = place - other
                pointers.append((distance if model.use_signed_tpos_enc_to_obj_ptrs else abs(distance), other))
        for distance in range(1, most):
            if place - distance < 0:
                break
            if known(place - distance):
                pointers.append((distance, place - distance))
    return Attended(tuple(spatial), tuple(pointers), most - 1)


@dataclass(frozen=True)
class _Form:
    """All of a step that is no tensor: places in time of its memories, what distances are divided by, and ways."""

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
        precision: What the package's parts run under.

    Attributes:
        fused: Whether memories are attended to, and pictures normed, in fewer passes than the package's own code takes.
        backend: What computes the attention to memories then; torch's choice where ``None``.
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
        self._fewer_passes = FewerPasses(model.memory_attention)
        self.fused = False
        self.backend: SDPBackend | None = None

    def arguments(
        self,
        chosen: Attended,
        levels: Sequence[Tensor],
        memories: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> tuple[Hashable, list[Tensor], list[Tensor]]:
        """Put what a step takes into the order in which it takes it.

        Args:
            chosen: The memories' places.
            levels: (N, C, h, w) image features, lowest resolution last.
            memories: (N, C_mem, h_mem, w_mem) of each place in ``chosen.spatial``.
            pointers: (N, C) of each place in ``chosen.pointers``.
            distances: (P,) those of ``chosen.pointers``, on the device.
        """
        positions = tuple(position for position, _ in chosen.spatial)
        fused = self.fused and self._fewer_passes.serves()
        form = _Form(len(levels), positions, chosen.span, fused, self.backend if fused else None)
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
        with self._precision(), norms_in_one_pass(model, key.fused):
            features = [level.flatten(2).permute(2, 0, 1) for level in levels]
            fused = self._fused(features[-1], memories, key, pointers, shared[0])
            _, _, _, logits, large, pointer, presence = model._forward_sam_heads(
                backbone_features=fused,
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

    def _fused(
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
        place = self._memory_position[0].flatten(1).T
        tokens = [memory.flatten(2).transpose(1, 2) for memory in memories]
        encodings = [
            place + model.maskmem_tpos_enc[model.num_maskmem - 1 - position, 0] for position in form.positions
        ]
        pointer_tokens = 0
        if pointers:
            parts = width // model.mem_dim
            # (N, P, C) -> (N, P * parts, C_mem)
            tokens.append(torch.stack(list(pointers), dim=1).reshape(count, -1, model.mem_dim))
            encodings.append(self._pointer_encodings(distances, form.span, width).repeat_interleave(parts, 0))
            pointer_tokens = len(pointers) * parts
        if form.fused:
            position = self._image_position[:, 0]
            fused = self._fewer_passes(
                features.transpose(0, 1), position, tokens, encodings, pointer_tokens, form.backend
            ).transpose(0, 1)
        else:
            fused = model.memory_attention(
                curr=[features],
                curr_pos=[self._image_position.expand(-1, count, -1)],
                memory=torch.cat(tokens, dim=1).transpose(0, 1),
                memory_pos=torch.cat(encodings)[:, None].expand(-1, count, -1),
                num_obj_ptr_tokens=pointer_tokens,
            )
        return fused.permute(1, 2, 0).view(count, width, *self._sizes[-1])

    def _pointer_encodings(self, distances: Tensor, span: int, width: int) -> Tensor:
        """(P, C_mem), by the pointers' distances in time."""
        model = self._model
        if not model.add_tpos_enc_to_obj_ptrs:
            return distances.new_zeros(len(distances), model.mem_dim)
        channels = width if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
        encoding: Tensor = model.obj_ptr_tpos_proj(get_1d_sine_pe(distances / span, dim=channels))
        return encoding
