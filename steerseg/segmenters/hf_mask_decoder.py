"""The mask decoder of video models of ``transformers``, for one prompt a row: the library's own weights and arithmetic.

The library copies features for several prompts of a row, also where there is one. The copy separates the channels of
a position, which the next products join again. In each layer positions are added to the picture twice. One mask is
computed that nobody asked for. Here nothing is copied, and each sum is made and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from steerseg.segmenters.fused import add_and_norm, add_in_precision

_ABSENT_LOGIT = -1024.0  # of every pixel, where the object is not visible


class Heads(NamedTuple):
    """The mask decoder's answer for N objects.

    Attributes:
        ious: (N,) estimated overlap with the object.
        logits: (N, h, w) low-resolution mask logits.
        pointers: (N, C) object pointers.
        presence: (N, 1) object score logits.
    """

    ious: Tensor
    logits: Tensor
    pointers: Tensor
    presence: Tensor


class MaskDecoder:
    """Decodes one prompt a row.

    Args:
        model: A ``Sam2VideoModel``, ``Sam3TrackerVideoModel`` or ``EdgeTamVideoModel``.
        precision: Makes the context under which prompts and positions are encoded, as :meth:`__call__` runs.
    """

    def __init__(self, model: Any, precision: Callable[[], AbstractContextManager[Any]]) -> None:
        self._model = model
        with precision():
            position = model.get_image_wide_positional_embeddings()  # (1, C, h, w)
            self._nothing = self._prompts(*_no_clicks(position))
        self._position = position.flatten(2).transpose(1, 2)[:, None].contiguous()  # (1, 1, L, C)

    def __call__(
        self,
        levels: Sequence[Tensor],
        features: Tensor,
        *,
        multimask: bool,
        clicks: tuple[Tensor, Tensor] | None = None,
        logits: Tensor | None = None,
    ) -> Heads:
        """Decode one prompt a row.

        Args:
            levels: (N or 1, C, h, w) image features of each level, largest first; the lowest is not read.
            features: (N, C, h, w) features of the lowest level, with what was added to them.
            multimask: Whether the best of three masks is taken, for prompts that may mean several things.
            clicks: (N, P, 2) coordinates in pixels and (N, P) labels.
            logits: (N, 1, h, w) mask logits.
        """
        sparse, dense = self._nothing
        if clicks is not None or logits is not None:
            sparse, dense = self._prompts(*(clicks or _no_clicks(features)), logits)
        masks, ious, tokens, presence = self._decode(levels, features, sparse, dense, multimask)
        visible = presence > 0
        best = ious.argmax(dim=1, keepdim=True)
        logits = masks.take_along_dim(best[..., None, None], dim=1)[:, 0]
        token = tokens.take_along_dim(best[..., None], dim=1)[:, 0]
        return Heads(
            ious.amax(dim=1),
            torch.where(visible[..., None], logits, _ABSENT_LOGIT),
            blend_pointers(self._model, self._model.object_pointer_proj(token), visible),
            presence,
        )

    def _prompts(
        self, positions: Tensor, labels: Tensor, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, P, 2) and (N, P) clicks and (N, 1, h, w) logits -> (N, 1, P + 1, C) tokens, (N, C, h, w) to be added."""
        encoder = self._model.prompt_encoder
        if logits is not None:
            logits = at_side(logits, encoder.mask_input_size[0], antialias=True)
        sparse, dense = encoder(positions[:, None], labels[:, None], None, logits)
        return sparse, dense

    def _decode(
        self, levels: Sequence[Tensor], features: Tensor, sparse: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, M, h, w) masks, (N, M) estimated overlaps, (N, M, C) tokens and (N, 1) object score logits."""
        decoder = self._model.mask_decoder
        count, size = len(features), features.shape[2:]
        own = (decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight)
        tokens = torch.cat([torch.cat(own).expand(count, 1, -1, -1), sparse.expand(count, -1, -1, -1)], dim=2)
        picture = (features + dense).flatten(2).transpose(1, 2)[:, None]  # (N, 1, L, C)
        tokens, picture = self._transform(decoder.transformer, tokens, picture)
        first = 2 + multimask  # the single mask has a token of its own, before those of the others
        mask_tokens = tokens[:, 0, first : 2 + decoder.num_mask_tokens]  # (N, M, C)

        large = torch.unflatten(picture[:, 0].transpose(1, 2), 2, size)
        large = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(large) + levels[1]))
        large = decoder.activation(decoder.upscale_conv2(large) + levels[0])
        weights = torch.stack(
            [
                mlp(token)
                for mlp, token in zip(
                    decoder.output_hypernetworks_mlps[first - 2 :], mask_tokens.unbind(1), strict=True
                )
            ],
            dim=1,
        )
        masks = torch.unflatten(weights @ large.flatten(2), 2, large.shape[2:])
        ious = decoder.iou_prediction_head(tokens[:, 0, 1])[:, first - 2 :]
        presence = decoder.pred_obj_score_head(tokens[:, 0, 0])
        if not multimask:
            masks, ious, mask_tokens = _single(decoder, masks, ious, mask_tokens)
        return masks, ious, mask_tokens, presence

    def _transform(self, transformer: Any, tokens: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, 1, T, C) and the picture's (N, 1, L, C) attend to each other.

        Returns:
            Both; the picture's in the precision of products.
        """
        start = tokens
        dtype = transformer.final_attn_token_to_image.k_proj.weight.dtype
        for layer in transformer.layers:
            rounded = picture.to(dtype)
            positioned = add_in_precision(picture, self._position, dtype)
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)[0]
            else:
                query = tokens + start
                tokens = tokens + layer.self_attn(query, query, tokens)[0]
            tokens = layer.layer_norm1(tokens)
            tokens = tokens + layer.cross_attn_token_to_image(tokens + start, positioned, rounded)[0]
            tokens = layer.layer_norm2(tokens)
            tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
            added = layer.cross_attn_image_to_token(positioned, tokens + start, tokens)[0]
            picture = add_and_norm(picture, added, layer.layer_norm4, torch.float32)[1]
        rounded = picture.to(dtype)
        positioned = add_in_precision(picture, self._position, dtype)
        tokens = tokens + transformer.final_attn_token_to_image(tokens + start, positioned, rounded)[0]
        return transformer.layer_norm_final_attn(tokens), rounded


def blend_pointers(model: Any, pointers: Tensor, visible: Tensor) -> Tensor:
    """(N, C) pointers, and the pointer of no object where (N, 1) bool says that none is visible."""
    share = visible.to(pointers.dtype)
    blended: Tensor = share * pointers + (1 - share) * model.no_object_pointer
    return blended


def at_side(pictures: Tensor, side: int, *, antialias: bool = False) -> Tensor:
    """(N, 1, h, w) at another size, by bilinear interpolation; as they are where they have it."""
    if pictures.shape[-1] == side:
        return pictures
    return F.interpolate(
        pictures.float(), size=(side, side), mode="bilinear", align_corners=False, antialias=antialias
    )


def _no_clicks(features: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1, 2) coordinates and (N, 1) labels that say so."""
    count = len(features)
    return features.new_zeros(count, 1, 2), features.new_full((count, 1), -1, dtype=torch.int32)


def _single(decoder: Any, masks: Tensor, ious: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One mask of several, as a prompt that means one thing has it."""
    if decoder.dynamic_multimask_via_stability:
        chosen, overlap = decoder._dynamic_multimask_via_stability(masks[:, None], ious[:, None])
        return chosen[:, 0], overlap[:, 0], tokens[:, :1]
    return masks[:, :1], ious[:, :1], tokens[:, :1]
