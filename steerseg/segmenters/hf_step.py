"""One frame of tracking by a video model of ``transformers``, as a function of tensors.

The modules are the library's own: attention to memories, prompt encoder, mask decoder and memory encoder. What joins
them is written here for N objects in one batch, since the library's sessions take one object at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe, select_closest_cond_frames
from torch import Tensor

from steerseg.segmenters.base import AttendedMemories
from steerseg.segmenters.fused import in_one_pass
from steerseg.segmenters.hf_mask_decoder import MaskDecoder, at_side
from steerseg.segmenters.memory_attention import of_transformers


def attended_memories(
    config: Any, index: int, prompted: Collection[int], num_frames: int
) -> AttendedMemories:
    """Choose the memories that the library's sessions attend to, on a path whose earlier indices are all known.

    Unlike ``sam2``, they attend to the pointers of all prompts up to now, also of those whose spatial memories are
    left out for closer ones.

    Args:
        config: Of the model.
        index: Of the step, counted from the path's start.
        prompted: Indices with a prompt, in their order; negative ones lie behind the start.
        num_frames: Of the video.
    """
    selected, others = select_closest_cond_frames(index, dict.fromkeys(prompted), config.max_cond_frame_num)
    spatial = [(0, other) for other in selected]
    for distance in range(config.num_maskmem - 1, 0, -1):
        other = index - distance
        if other in others or (other >= 0 and other not in selected):
            # Temporal encodings are stored by distance; the selected prompts have the last one.
            spatial.append((config.num_maskmem - distance, other))
    most = min(num_frames, config.max_object_pointers_in_encoder)
    pointers = [(index - other, other) for other in prompted if other <= index]
    recent = range(1, min(most, index + 1))
    pointers += [(distance, index - distance) for distance in recent if index - distance not in prompted]
    return AttendedMemories(tuple(spatial), tuple(pointers), most - 1)


@dataclass(frozen=True)
class _Form:
    """All of a step that is no tensor.

    Attributes:
        levels: Number of levels of image features.
        positions: Temporal position of each spatial memory.
        span: Divisor of the object pointers' distances.
        fused: Whether it runs in fewer passes over memory than the library's own code.
        one_frame: Whether all objects are tracked on one frame, whose features they share.
    """

    levels: int
    positions: tuple[int, ...]
    span: int
    fused: bool
    one_frame: bool


class VideoModelStep:
    """Tracks N objects on one frame each; callable as :data:`steerseg.runtime.cuda_graphs.Function`.

    Args:
        model: A ``Sam2VideoModel``, ``Sam3TrackerVideoModel`` or ``EdgeTamVideoModel``.
        decode: The model's mask decoder.
        compress: Turns (N, C_mem, h, w) memories into the (N, L, C_mem) tokens that are attended to, and
            that are kept.
        image_position: (h * w, 1, C) position encoding of the lowest level.
        memory_position: (L, 1, C_mem) position encoding of a memory's tokens.
        attention_arguments: Further arguments of the memory attention, of the number of memories.
        precision: Makes the context under which the modules run.

    Attributes:
        fused: Whether memory attention, norms and convolutions take fewer passes over memory than the library's
            own code.
    """

    def __init__(
        self,
        model: Any,
        *,
        decode: MaskDecoder,
        compress: Callable[[Tensor], Tensor],
        image_position: Tensor,
        memory_position: Tensor,
        attention_arguments: Callable[[int], tuple[int, ...]],
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = model
        self._decode = decode
        self._compress = compress
        self._image_position = image_position
        # (positions, L, C_mem), by a memory's temporal position
        self._encodings = memory_position[:, 0] + model.memory_temporal_positional_encoding[:, 0].flip(0)
        self._memory_attention = of_transformers(
            model.memory_attention, len(image_position), len(memory_position)
        )
        self._attention_arguments = attention_arguments
        self._precision = precision
        self.fused = False

    def arguments(
        self,
        attended: AttendedMemories,
        levels: Sequence[Tensor],
        memories: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> tuple[Hashable, list[Tensor], list[Tensor]]:
        """Order the arguments of a step as :meth:`__call__` takes them."""
        positions = tuple(position for position, _ in attended.spatial)
        one_frame = len(levels[0]) > 1 and not any(level.stride(0) for level in levels)
        form = _Form(len(levels), positions, attended.span, self.fused, one_frame)
        rows = [*memories, *pointers]
        if one_frame:
            return form, rows, [distances, *(level[:1] for level in levels)]
        return form, [*levels, *rows], [distances]

    @staticmethod
    def _inputs(
        form: _Form, rows: Sequence[Tensor], shared: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """Features (N or 1, C, h, w) of each level, memories, and pointers."""
        own = 0 if form.one_frame else form.levels
        end = own + len(form.positions)
        return shared[1:] if form.one_frame else rows[:own], rows[own:end], rows[end:]

    def __call__(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One step: the fields of a :class:`steerseg.segmenters.base.StepOutput`."""
        assert isinstance(key, _Form)
        (*finer, lowest), memories, pointers = self._inputs(key, rows, shared)
        # Attention and memory encoder both read the channels of a position side by side.
        lowest = lowest.contiguous(memory_format=torch.channels_last)
        with self._precision(), in_one_pass(self._model, key.fused):
            conditioned = self._attend(key, lowest, memories, pointers, shared[0])
            heads = self._decode(finer, conditioned, multimask=True)
            large = at_side(heads.logits[:, None].float(), self._model.prompt_encoder.input_image_size)
            tokens = self._compress(remember(self._model, lowest, large, heads.presence, binary=False))
        return heads.logits.float(), heads.pointers, tokens, heads.presence[:, 0].float().sigmoid()

    def attend(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The first part of a step alone: image features that have attended to the memories, (N, C, h, w)."""
        assert isinstance(key, _Form)
        with self._precision(), in_one_pass(self._model, key.fused):
            levels, memories, pointers = self._inputs(key, rows, shared)
            return self._attend(key, levels[-1], memories, pointers, shared[0])

    def _attend(
        self,
        form: _Form,
        features: Tensor,
        memories: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> Tensor:
        """Features (N or 1, C, h, w) of the lowest level that have attended to the memories of a step: of N rows."""
        model = self._model
        count, width = len(memories[0]), features.shape[1]
        tokens = list(memories)  # (N, L, C_mem)
        encodings = [self._encodings[position] for position in form.positions]  # (L, C_mem)
        pointer_tokens = 0
        if pointers:
            parts = width // model.mem_dim
            tokens.append(torch.stack(list(pointers), dim=1).reshape(count, -1, model.mem_dim))
            encodings.append(self._pointer_encodings(distances, form.span, width).repeat_interleave(parts, 0))
            pointer_tokens = len(pointers) * parts
        if form.fused and self._memory_attention is not None:
            conditioned = self._memory_attention(
                features.flatten(2).transpose(1, 2),
                self._image_position[:, 0],
                tokens,
                encodings,
                pointer_tokens,
            )
        else:
            # By position, since the library has misspelt a name that it may mend.
            conditioned = model.memory_attention(
                features.flatten(2).permute(2, 0, 1).expand(-1, count, -1),
                torch.cat(tokens, dim=1).transpose(0, 1),
                self._image_position,
                torch.cat(encodings)[:, None],
                pointer_tokens,
                *self._attention_arguments(len(memories)),
            )[0]
        return torch.unflatten(conditioned.transpose(1, 2), 2, features.shape[2:])

    def _pointer_encodings(self, distances: Tensor, span: int, width: int) -> Tensor:
        """(P, C_mem), by the pointers' distances in time."""
        model = self._model
        if not model.config.enable_temporal_pos_encoding_for_object_pointers:
            return distances.new_zeros(len(distances), model.mem_dim)
        sines = get_1d_sine_pe(distances / span, dim=width)
        encoding: Tensor = model.temporal_positional_encoding_projection_layer(sines)
        return encoding


def remember(model: Any, features: Tensor, logits: Tensor, presence: Tensor, *, binary: bool) -> Tensor:
    """Encode N objects as memories.

    Args:
        model: As of :class:`VideoModelStep`.
        features: (N or 1, C, h, w) image features of the lowest level.
        logits: (N, 1, S, S) mask logits at the model's input size.
        presence: (N, 1) object score logits.
        binary: Whether pixels count as in or out, as where the object was prompted.

    Returns:
        (N, C_mem, h, w).
    """
    config = model.config
    logits = at_side(logits, 4 * model.prompt_encoder.mask_input_size[0], antialias=True)
    shares = (logits > 0).to(logits.dtype) if binary else logits.sigmoid()
    # The bias plus so many times the shares, in one pass.
    scaled = torch.rsub(shares, config.sigmoid_bias_for_mem_enc, alpha=-config.sigmoid_scale_for_mem_enc)
    # The encoder's own call would also encode positions, which are known.
    encoder = model.memory_encoder
    joined = encoder.feature_projection(features) + encoder.mask_downsampler(scaled)
    memory: Tensor = encoder.projection(encoder.memory_fuser(joined))
    if model.occlusion_spatial_embedding_parameter is not None:
        absent = (presence <= 0).float()[..., None, None]
        memory = memory + absent * model.occlusion_spatial_embedding_parameter[..., None, None]
    return memory
