"""SAM 2's mask decoder and memory encoder in a step of tracking, with fewer passes over memory.

The package enlarges all three masks of an object to the input's size before it chooses one, and writes the chosen one
four times before the memory encoder reads it. Here the best one is chosen first, and enlarged and squashed at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch
from sam2.modeling.memory_encoder import CXBlock, MemoryEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor

from steerseg.segmenters.fused import add_and_norm, mask_for_memory


class TrackedMasks(NamedTuple):
    """The masks of N objects that are tracked.

    Attributes:
        logits: (N, h, w) float32 low-resolution mask logits.
        pointers: (N, C) object pointers.
        presence: (N, 1) object score logits.
    """

    logits: Tensor
    pointers: Tensor
    presence: Tensor


def supported(model: Any) -> bool:
    """Whether these are the steps of a model: of the package's kind, with objects that do not depend on each other."""
    encoder = model.memory_encoder
    known = type(encoder) is MemoryEncoder and "forward" not in encoder.__dict__
    return bool(
        known
        and all(type(block) is CXBlock and block.gamma is not None for block in encoder.fuser.layers)
        and model.pred_obj_scores
        and not model.non_overlap_masks_for_mem_enc
    )


@contextmanager
def _two_ways_in_fewer_passes(model: Any) -> Iterator[None]:
    """Inside, a model's mask decoder adds positions to a picture once a layer."""
    transformer = model.sam_mask_decoder.transformer
    if type(transformer) is not TwoWayTransformer or "forward" in transformer.__dict__:
        yield
        return
    transformer.forward = MethodType(_attend_two_ways, transformer)
    try:
        yield
    finally:
        del transformer.__dict__["forward"]


def _attend_two_ways(
    transformer: Any, image: Tensor, position: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """The package's ``TwoWayTransformer``: tokens and picture attend to each other.

    Args:
        transformer: The module.
        image: (N, C, h, w).
        position: (N, C, h, w); the same for every row.
        tokens: (N, T, C).

    Returns:
        (N, T, C) tokens and (N, h * w, C) picture.
    """
    dtype = transformer.final_attn_token_to_image.k_proj.weight.dtype
    keys = image.flatten(2).transpose(1, 2).contiguous()
    position = position[:1].flatten(2).transpose(1, 2).contiguous()  # read once for each row

    def with_position() -> Tensor:
        return torch.add(keys, position, out=torch.empty_like(keys, dtype=dtype))

    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            positioned = queries + tokens
            queries = queries + layer.self_attn(q=positioned, k=positioned, v=queries)
        queries = layer.norm1(queries)
        picture = with_position()
        queries = queries + layer.cross_attn_token_to_image(q=queries + tokens, k=picture, v=keys.to(dtype))
        queries = layer.norm2(queries)
        queries = layer.norm3(queries + layer.mlp(queries))
        added = layer.cross_attn_image_to_token(q=picture, k=queries + tokens, v=queries)
        keys = add_and_norm(keys, added, layer.norm4, keys.dtype)[1]
    final = transformer.final_attn_token_to_image
    queries = queries + final(q=queries + tokens, k=with_position(), v=keys.to(dtype))
    return transformer.norm_final_attn(queries), keys


def decode_tracked(model: Any, conditioned: Tensor, levels: Sequence[Tensor]) -> TrackedMasks:
    """Decode objects without prompts, as the package's ``SAM2Base._forward_sam_heads`` does.

    Args:
        model: A ``SAM2Base``.
        conditioned: (N, C, h, w) image features that have attended to memories.
        levels: (N or 1, C, h, w) image features of each level but the lowest.
    """
    count, device = len(conditioned), conditioned.device
    points = (
        torch.zeros(count, 1, 2, device=device),
        torch.full((count, 1), -1, dtype=torch.int32, device=device),
    )
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=None)
    multimask = model._use_multimask(False, None)
    with _two_ways_in_fewer_passes(model):
        masks, ious, tokens, presence = model.sam_mask_decoder(
            image_embeddings=conditioned,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=list(levels) or None,
        )
    best = ious.argmax(dim=1, keepdim=True) if multimask else ious.new_zeros((count, 1), dtype=torch.int64)
    logits = masks.take_along_dim(best[..., None, None], dim=1)[:, 0].float()
    if tokens.shape[1] == 1:
        token = tokens[:, 0]
    else:
        token = tokens.take_along_dim(best[..., None], dim=1)[:, 0]
    visible = presence > 0
    share = presence.sigmoid() if model.soft_no_obj_ptr else visible.float()
    pointers = model.obj_ptr_proj(token)
    if model.fixed_no_obj_ptr:
        pointers = share * pointers
    return TrackedMasks(
        torch.where(visible[..., None], logits, NO_OBJ_SCORE),
        pointers + (1 - share) * model.no_obj_ptr,
        presence,
    )


def remember_tracked(model: Any, features: Tensor, tracked: TrackedMasks) -> Tensor:
    """Turn tracked masks into spatial memories, as the package's ``SAM2Base._encode_new_memory`` does.

    Args:
        model: A ``SAM2Base``.
        features: (N or 1, C, h, w) image features of the lowest level.
        tracked: The masks of N objects.

    Returns:
        (N, C_mem, h, w).
    """
    encoder = model.memory_encoder
    masks = mask_for_memory(
        tracked.logits,
        model.image_size,
        model.sigmoid_scale_for_mem_enc,
        model.sigmoid_bias_for_mem_enc,
        encoder.mask_downsampler.encoder[0].weight.dtype,
    )
    fused = encoder.fuser.proj(encoder.pix_feat_proj(features) + encoder.mask_downsampler(masks))
    for block in encoder.fuser.layers:
        fused = _convolve(block, fused)
    memory: Tensor = encoder.out_proj(fused)
    if model.no_obj_embed_spatial is not None:
        absent = (tracked.presence <= 0).float()[..., None, None]
        memory += absent * model.no_obj_embed_spatial[..., None, None]  # in the memory's own precision
    return memory


def _convolve(block: Any, pictures: Tensor) -> Tensor:
    """The package's ``CXBlock`` on (N, C, h, w): products take their bias with them, and the sum is one pass."""
    inner = block.norm(block.dwconv(pictures)).permute(0, 2, 3, 1).contiguous()
    inner = block.pwconv2(block.act(block.pwconv1(inner))).permute(0, 3, 1, 2)
    with torch.autocast(pictures.device.type, enabled=False):
        return torch.addcmul(pictures, inner, block.gamma[:, None, None])
