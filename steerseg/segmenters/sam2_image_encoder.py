"""SAM 2's image encoder with fewer passes over memory: the package's own weights and arithmetic, in another order.

Hiera cuts its tokens into windows before each attention and puts them back after it, four copies a block, although
nothing else in a block looks at a token's position. Here the tokens of a stage stay in the order of its windows:
pooling halves a window where it lies, attention over the whole picture takes tokens in any order, and the output of a
stage is brought back. Sums and norms are one pass, and so are products and what is added to them
(:mod:`steerseg.segmenters.fused`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock
from torch import Tensor

from steerseg.runtime.window_attention import attend_within
from steerseg.segmenters.fused import add_and_norm, in_one_pass, project_and_activate


@dataclass(frozen=True)
class _Grid:
    """How tokens (B * windows, side * side, C) lie in pictures.

    Attributes:
        batch: Pictures.
        height: Of a picture in tokens, a multiple of ``side``.
        width: The same.
        side: Of a window in tokens.
    """

    batch: int
    height: int
    width: int
    side: int

    def cut(self, tokens: Tensor) -> Tensor:
        """(B, height, width, C) -> (B * windows, side * side, C)."""
        down, across = self.height // self.side, self.width // self.side
        windows = tokens.reshape(self.batch, down, self.side, across, self.side, -1)
        return windows.transpose(2, 3).reshape(-1, self.side**2, tokens.shape[-1])

    def join(self, tokens: Tensor) -> Tensor:
        """(B * windows, side * side, C) -> (B, height, width, C)."""
        down, across = self.height // self.side, self.width // self.side
        windows = tokens.reshape(self.batch, down, across, self.side, self.side, -1)
        return windows.transpose(2, 3).reshape(self.batch, self.height, self.width, -1)

    def pool(self, tokens: Tensor, stride: tuple[int, int]) -> Tensor:
        """The largest of each ``stride`` of a window: (B * windows, tokens, C) with fewer tokens."""
        down, across = stride
        parts = tokens.reshape(len(tokens), self.side // down, down, self.side // across, across, -1)
        return parts.amax(dim=(2, 4)).flatten(1, 2)

    def pooled_by(self, stride: tuple[int, int]) -> _Grid:
        """The grid of tokens that were pooled by ``stride``."""
        return _Grid(self.batch, self.height // stride[0], self.width // stride[1], self.side // stride[0])


class FusedImageEncoder:
    """Encodes pixels to the features that SAM 2's decoder and memory encoder read.

    Args:
        model: A ``SAM2Base``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._positions: dict[tuple[int, int], Tensor] = {}

    def supported(self) -> bool:
        """Whether the encoder is of the package's kind, its windows fill its pictures, and nobody has compiled it."""
        encoder = self._model.image_encoder
        trunk = encoder.trunk
        if type(trunk) is not Hiera or not trunk.return_interm_layers:
            return False
        if any("forward" in module.__dict__ for module in (encoder, trunk, encoder.neck)):
            return False
        side = self._model.image_size // 4
        for block in trunk.blocks:
            if type(block) is not MultiScaleBlock or (block.window_size and side % block.window_size):
                return False
            if block.q_stride:
                if block.q_stride[0] != block.q_stride[1] or not block.window_size:
                    return False
                if block.window_size % block.q_stride[0]:
                    return False
                side //= block.q_stride[0]
        return True

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> per level (B, C, h, w) features, lowest resolution last: ``forward_image``'s."""
        model = self._model
        encoder = model.image_encoder
        stages = self._stages(encoder.trunk, pixels)
        with _without_positions(encoder.neck), in_one_pass(encoder.neck), in_one_pass(model.sam_mask_decoder):
            features, _ = encoder.neck(stages)
            if encoder.scalp > 0:
                features = features[: -encoder.scalp]
            if model.use_high_res_features_in_sam:
                features[0] = model.sam_mask_decoder.conv_s0(features[0])
                features[1] = model.sam_mask_decoder.conv_s1(features[1])
        return list(features[-model.num_feature_levels :])

    def _stages(self, trunk: Any, pixels: Tensor) -> list[Tensor]:
        """The output of each of Hiera's stages: (B, C, h, w), rounded as the next product would round it."""
        tokens = trunk.patch_embed(pixels)
        batch, height, width, _ = tokens.shape
        grid = _Grid(batch, height, width, trunk.blocks[0].window_size or 1)
        tokens = grid.cut(tokens + self._position(trunk, height, width))
        added: Tensor | None = None
        stages: list[Tensor] = []
        for index, block in enumerate(trunk.blocks):
            if block.window_size not in (0, grid.side):
                tokens, added = tokens if added is None else tokens + added, None
                spread = grid.join(tokens)
                grid = _Grid(batch, grid.height, grid.width, block.window_size)
                tokens = grid.cut(spread)
            tokens, added, grid = _block(block, tokens, added, grid)
            if index in trunk.stage_ends:
                tokens, added = tokens + added, None
                rounded = tokens.to(block.mlp.layers[0].weight.dtype)
                stages.append(grid.join(rounded).permute(0, 3, 1, 2))
        return stages

    def _position(self, trunk: Any, height: int, width: int) -> Tensor:
        """(1, h, w, C) position embedding, which is the same for every picture."""
        key = (height, width)
        if key not in self._positions:
            self._positions[key] = trunk._get_pos_embed(key).contiguous()
        return self._positions[key]


@contextmanager
def _without_positions(neck: Any) -> Iterator[None]:
    """Inside, a neck makes no position encodings: they are known, and take more memory than its features."""
    encoding = neck.position_encoding
    encoding.forward = _no_encoding
    try:
        yield
    finally:
        encoding.__dict__.pop("forward", None)


def _no_encoding(level: Tensor) -> Tensor:
    return level.new_zeros(())


def _block(block: Any, tokens: Tensor, added: Tensor | None, grid: _Grid) -> tuple[Tensor, Tensor, _Grid]:
    """Run one block.

    Args:
        block: A ``MultiScaleBlock``.
        tokens: (B * windows, tokens, C) the residual stream.
        added: The same; what the block before adds to the stream.
        grid: How the tokens lie.

    Returns:
        The residual stream, what this block adds to it, and how the tokens lie then.
    """
    dtype = block.mlp.layers[0].weight.dtype
    tokens, normed = add_and_norm(tokens, added, block.norm1, dtype)
    stride = block.q_stride
    shortcut = tokens
    if block.dim != block.dim_out:
        shortcut = block.proj(normed)
        shortcut = grid.pool(shortcut, stride) if stride else shortcut
    attention = block.attn
    # Attention over the whole picture needs no order.
    count = len(normed) if block.window_size else grid.batch
    qkv = attention.qkv(normed).reshape(
        count, -1, 3, attention.num_heads, attention.proj.in_features // attention.num_heads
    )
    query, key, value = qkv.unbind(2)
    if stride:
        query = torch.unflatten(grid.pool(query.flatten(2), stride), -1, query.shape[-2:])
        grid = grid.pooled_by(stride)
    projected = attention.proj(attend_within(query, key, value).reshape(shortcut.shape))
    tokens, normed = add_and_norm(shortcut, projected, block.norm2, dtype)
    inner, outer = block.mlp.layers
    return tokens, outer(project_and_activate(normed, inner, block.mlp.act)), grid
