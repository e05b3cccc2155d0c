"""A fast training forward over the modules of a stock Qwen2.5-VL.

It computes what ``Qwen2_5_VLForConditionalGeneration`` computes (a test compares the logits), restricted to
what training needs, and is several times faster because

- all frames of a batch have one size, so they are attended as one batched call, where the stock code loops
  over them in Python;
- several questions about one picture share one pass over the picture. A row is
  ``[chat header, visual tokens, <|vision_end|>] [question, answer] [question, answer] ...``; each question
  sees the shared prefix and itself only, and its positions restart behind the prefix. As attention is causal,
  that is exactly what the questions would see one by one;
- the blocks are plain functions of tensors, so one compiled graph serves all layers.

Weights stay float32; matrix products run in ``dtype``; the residual stream stays float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.demo_models.lvlm import MERGE, PATCH, SECOND_PER_GRID, TEMPORAL_PATCH

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

PREFIX_TEXT = 4
"""Tokens before the visual ones: ``<|im_start|>``, ``user``, newline, ``<|vision_start|>``."""


@dataclass(frozen=True)
class Layout:
    """The shape of one batch's picture.

    Attributes:
        pairs: Frame pairs of a video; 1 for an image.
        rows: Rows of visual tokens.
        columns: Columns of visual tokens.
        video: Whether the picture is a video (its placeholder token and its time step differ).
    """

    pairs: int
    rows: int
    columns: int
    video: bool

    @property
    def tokens(self) -> int:
        """Number of visual tokens."""
        return self.pairs * self.rows * self.columns

    @property
    def prefix(self) -> int:
        """Number of tokens that all questions share: header, visual tokens, ``<|vision_end|>``."""
        return PREFIX_TEXT + self.tokens + 1

    @property
    def height(self) -> int:
        """Pixels."""
        return self.rows * PATCH * MERGE

    @property
    def width(self) -> int:
        """Pixels."""
        return self.columns * PATCH * MERGE


def patchify(frames: Tensor, layout: Layout) -> Tensor:
    """Cut normalised frames into the patches that the stock processor makes.

    Args:
        frames: (B, T, 3, H, W) with T = 2 · pairs for a video, (B, 1, 3, H, W) for an image.
        layout: The batch's layout.

    Returns:
        (B · pairs, 4 · rows · columns, 1176), patches in the order of the merged tokens.
    """
    batch = frames.shape[0]
    if not layout.video:
        frames = frames.expand(batch, TEMPORAL_PATCH, *frames.shape[2:])
    patches = frames.reshape(
        batch * layout.pairs, TEMPORAL_PATCH, 3, layout.rows, MERGE, PATCH, layout.columns, MERGE, PATCH
    ).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.reshape(batch * layout.pairs, 4 * layout.rows * layout.columns, -1)


def prefix_positions(layout: Layout, tokens_per_second: int) -> Tensor:
    """M-RoPE positions (3, prefix) of the shared prefix, as ``get_rope_index`` gives them."""
    header = torch.arange(PREFIX_TEXT).expand(3, -1)
    step = int(tokens_per_second * SECOND_PER_GRID) if layout.video else 1
    time, row, column = torch.meshgrid(
        torch.arange(layout.pairs) * step,
        torch.arange(layout.rows),
        torch.arange(layout.columns),
        indexing="ij",
    )
    visual = torch.stack([time, row, column]).reshape(3, -1) + PREFIX_TEXT
    end = torch.full((3, 1), PREFIX_TEXT + max(layout.rows, layout.columns))
    return torch.cat([header, visual, end], dim=1)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.float()
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, biases: tuple[Tensor | None, ...]) -> Tensor:
    hidden = F.silu(_linear(x, gate, biases[0])) * _linear(x, up, biases[1])
    return _linear(hidden, down, biases[2])


def vision_block(
    x: Tensor, cos: Tensor, sin: Tensor, heads: int, dtype: torch.dtype, w: tuple[Tensor, ...]
) -> Tensor:
    """One vision block over frames of equal size.

    Args:
        x: (C, N, d) residual stream in float32; every row is one frame (pair).
        cos: (N, d / heads) cosines of the axial rotary embedding.
        sin: Its sines.
        heads: Attention heads.
        dtype: Type of the matrix products.
        w: The block's weights in :func:`vision_weights`' order.
    """
    (norm1, qkv, qkv_bias, proj, proj_bias, norm2, gate, gate_bias, up, up_bias, down, down_bias) = w
    chunks, count, width = x.shape
    normed = _rms_norm(x, norm1, 1e-6).to(dtype)
    q, k, v = _linear(normed, qkv, qkv_bias).view(chunks, count, 3, heads, width // heads).unbind(2)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (C, heads, N, d / heads)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(chunks, count, width)
    x = x + _linear(mixed, proj, proj_bias)
    normed = _rms_norm(x, norm2, 1e-6).to(dtype)
    return x + _gated(normed, gate, up, down, (gate_bias, up_bias, down_bias))


def text_heads(
    x: Tensor, cos: Tensor, sin: Tensor, head: int, eps: float, dtype: torch.dtype, w: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, H, S, head) and keys, values (B, H_kv, S, head) of a text block, rotated."""
    batch, count, _ = x.shape
    norm, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias = w[:7]
    normed = _rms_norm(x, norm, eps).to(dtype)
    q, k, v = (
        _linear(normed, weight, bias).view(batch, count, -1, head).transpose(1, 2)
        for weight, bias in ((q_weight, q_bias), (k_weight, k_bias), (v_weight, v_bias))
    )
    return _rotate(q, cos, sin), _rotate(k, cos, sin), v


def text_block(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    bias: Tensor,
    head: int,
    eps: float,
    dtype: torch.dtype,
    w: tuple[Tensor, ...],
) -> Tensor:
    """One text block.

    Args:
        x: (B, S, d) residual stream in float32.
        cos: (B, 1, S, head) cosines of M-RoPE.
        sin: Its sines.
        bias: (B, 1, S, S), 0 where a token may look and minus infinity elsewhere, in ``dtype``.
        head: Width of a head.
        eps: Of the norms.
        dtype: Type of the matrix products.
        w: The block's weights in :func:`text_weights`' order.
    """
    batch, count, width = x.shape
    q, k, v = text_heads(x, cos, sin, head, eps, dtype, w)
    groups = q.shape[1] // k.shape[1]
    k, v = (
        part[:, :, None].expand(-1, -1, groups, -1, -1).reshape(batch, -1, count, head) for part in (k, v)
    )
    mask = bias.expand(-1, q.shape[1], -1, -1)
    mixed = (
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(batch, count, width)
    )
    output, norm, gate, up, down = w[7:]
    x = x + _linear(mixed, output)
    return x + _gated(_rms_norm(x, norm, eps).to(dtype), gate, up, down, (None, None, None))


def vision_weights(block: Any) -> tuple[Tensor, ...]:
    """The tensors of a stock vision block, in the order :func:`vision_block` takes them."""
    attention, mlp = block.attn, block.mlp
    layers = (attention.qkv, attention.proj)
    gated = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return (
        block.norm1.weight,
        *(tensor for layer in layers for tensor in (layer.weight, layer.bias)),
        block.norm2.weight,
        *(tensor for layer in gated for tensor in (layer.weight, layer.bias)),
    )


def text_weights(layer: Any) -> tuple[Tensor, ...]:
    """The tensors of a stock text layer, in the order :func:`text_block` takes them."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return (
        layer.input_layernorm.weight,
        *(tensor for part in projections for tensor in (part.weight, part.bias)),
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
    )


def attention_bias(segments: Tensor, prefix: int, dtype: torch.dtype) -> Tensor:
    """Who may look at whom in rows of packed questions.

    Args:
        segments: (B, N) number of the question that each token behind the prefix belongs to, from 1; 0 for
            padding at the end.
        prefix: Number of shared tokens before.
        dtype: Type of the result.

    Returns:
        (B, 1, S, S) with S = prefix + N: 0 or minus infinity.
    """
    owner = F.pad(segments, (prefix, 0), value=-1)  # (B, S)
    count = owner.shape[1]
    shared = torch.arange(count, device=owner.device) < prefix
    causal = torch.ones(count, count, dtype=torch.bool, device=owner.device).tril()
    allowed = causal & (shared[None, None, :] | (owner[:, :, None] == owner[:, None, :]))
    bias = torch.zeros(allowed.shape, dtype=dtype, device=owner.device)
    return bias.masked_fill_(~allowed, float("-inf")).unsqueeze(1)


class FastLVLM:
    """The fast forward over one stock model's weights (which it does not copy).

    Args:
        model: The stock model; its parameters are float32.
        dtype: Type of the matrix products.
        compiled: Whether the blocks are compiled (see :meth:`uncompile`).
    """

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.config = model.config
        inner = model.model
        self.visual: Any = inner.visual
        self.language: Any = inner.language_model
        text = self.config.text_config
        self.head: int = text.hidden_size // text.num_attention_heads
        section: list[int] = text.rope_parameters["mrope_section"]
        device = self.language.embed_tokens.weight.device
        self._axis = torch.repeat_interleave(torch.arange(3), torch.tensor(section)).to(device)
        theta: float = text.rope_parameters["rope_theta"]
        self._frequencies = (theta ** -(torch.arange(0, self.head, 2).float() / self.head)).to(device)
        special = self.config
        tokens = [0, 0, 0, special.vision_start_token_id, special.vision_end_token_id]
        self._prefix_ids = torch.tensor(tokens, device=device)
        self._tables: dict[Any, Tensor | tuple[Tensor, Tensor]] = {}
        self._vision_block: Callable[..., Tensor] = vision_block
        self._text_block: Callable[..., Tensor] = text_block
        self.compiled = compiled
        if compiled:
            self._vision_block = torch.compile(vision_block, dynamic=False)
            self._text_block = torch.compile(text_block, dynamic=False)

    def set_header(self, ids: list[int]) -> None:
        """Tell the ids of the three tokens that begin a user turn (``<|im_start|>``, ``user``, newline)."""
        if len(ids) != 3:
            raise ValueError(f"a user turn begins with 3 tokens in the demo's vocabulary, got {ids}")
        self._prefix_ids[:3] = torch.tensor(ids, device=self._prefix_ids.device)

    def uncompile(self) -> None:
        """Go back to the plain blocks."""
        self._vision_block, self._text_block, self.compiled = vision_block, text_block, False

    def _vision_rope(self, layout: Layout) -> tuple[Tensor, Tensor]:
        key = ("vision", layout.rows, layout.columns)
        if key not in self._tables:
            vision = self.config.vision_config
            head = vision.hidden_size // vision.num_heads
            theta = (vision.rope_parameters or {}).get("rope_theta", 10_000.0)
            frequencies = theta ** -(torch.arange(0, head // 2, 2).float() / (head // 2))
            rows = torch.arange(MERGE * layout.rows)[:, None].expand(-1, MERGE * layout.columns)
            columns = torch.arange(MERGE * layout.columns)[None, :].expand(MERGE * layout.rows, -1)
            blocks = (layout.rows, MERGE, layout.columns, MERGE)
            positions = [grid.reshape(blocks).transpose(1, 2).flatten() for grid in (rows, columns)]
            angles = torch.cat([position[:, None].float() * frequencies for position in positions], dim=-1)
            angles = torch.cat([angles, angles], dim=-1).to(self._frequencies.device)
            self._tables[key] = (angles.cos(), angles.sin())
        return self._tables[key]  # type: ignore[return-value]

    def _positions(self, layout: Layout) -> Tensor:
        key = ("prefix", layout)
        if key not in self._tables:
            per_second = self.config.vision_config.tokens_per_second
            self._tables[key] = prefix_positions(layout, per_second).to(self._frequencies.device)
        return self._tables[key]  # type: ignore[return-value]

    def see(self, frames: Tensor, layout: Layout, *, plain: bool = False) -> Tensor:
        """The vision tower.

        Args:
            frames: (B, T, 3, H, W) normalised, as :func:`patchify` takes them.
            layout: The batch's layout.
            plain: Do not use compiled blocks.

        Returns:
            (B, pairs · rows · columns, d) visual tokens, float32.
        """
        visual = self.visual
        weight = visual.patch_embed.proj.weight
        patches = patchify(frames, layout).to(self.dtype)
        x = F.linear(patches, weight.flatten(1).to(self.dtype)).float()
        cos, sin = self._vision_rope(layout)
        block = vision_block if plain else self._vision_block
        heads = self.config.vision_config.num_heads
        for layer in visual.blocks:
            x = block(x, cos, sin, heads, self.dtype, vision_weights(layer))
        merger = visual.merger
        normed = _rms_norm(x, merger.ln_q.weight, 1e-6).to(self.dtype)
        normed = normed.reshape(frames.shape[0], layout.tokens, -1)
        hidden = F.gelu(_linear(normed, merger.mlp[0].weight, merger.mlp[0].bias))
        return _linear(hidden, merger.mlp[2].weight, merger.mlp[2].bias).float()

    def embed(self, visual: Tensor, ids: Tensor) -> Tensor:
        """Input embeddings (B, S, d): the prefix with the visual tokens in it, then the packed questions."""
        table = self.language.embed_tokens.weight
        batch = visual.shape[0]
        edge = F.embedding(self._prefix_ids, table).expand(batch, -1, -1)
        return torch.cat(
            [edge[:, :PREFIX_TEXT], visual, edge[:, PREFIX_TEXT:], F.embedding(ids, table)], dim=1
        )

    def rope(self, layout: Layout, offsets: Tensor, gap: int = 0) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, 1, S, head) of M-RoPE.

        Args:
            layout: The batch's layout.
            offsets: (B, N) position of each packed token within its question, from 0.
            gap: Positions left free before ``<|vision_start|>``, where soft prompts will stand.
        """
        prefix = self._positions(layout)
        if gap:
            prefix = prefix.clone()
            prefix[:, PREFIX_TEXT - 1 :] += gap
        behind = prefix[:, -1:, None] + 1 + offsets[None]  # (3, B, N)
        batch = offsets.shape[0]
        positions = torch.cat([prefix[:, None].expand(-1, batch, -1), behind], dim=2)
        angles = positions[self._axis].permute(1, 2, 0).float() * self._frequencies  # (B, S, head / 2)
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
        return angles.cos(), angles.sin()

    def think(
        self,
        embeddings: Tensor,
        layout: Layout,
        offsets: Tensor,
        segments: Tensor,
        *,
        middle: int,
        gap: int = 0,
        plain: bool = False,
        tap: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The language model.

        Args:
            embeddings: (B, S, d) from :meth:`embed`.
            layout: The batch's layout.
            offsets: (B, N) position of each packed token within its question.
            segments: (B, N) number of its question, from 1; 0 for padding.
            middle: Number of the layer whose input is returned too.
            gap: As in :meth:`rope`.
            plain: Do not use compiled blocks.
            tap: Called with layer, queries and keys (after the rotary embedding) of every layer.

        Returns:
            Hidden states (B, S, d) after the last norm, and the input of layer ``middle``.
        """
        text = self.config.text_config
        eps: float = text.rms_norm_eps
        cos, sin = self.rope(layout, offsets, gap)
        bias = attention_bias(segments, layout.prefix, self.dtype)
        block = text_block if plain else self._text_block
        x = between = embeddings
        for number, layer in enumerate(self.language.layers):
            if number == middle:
                between = x
            weights = text_weights(layer)
            if tap is not None:
                q, k, _ = text_heads(x, cos, sin, self.head, eps, self.dtype, weights)
                tap(number, q, k)
            x = block(x, cos, sin, bias, self.head, eps, self.dtype, weights)
        return _rms_norm(x, self.language.norm.weight, eps), between

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., vocabulary) of the next token, float32."""
        return F.linear(hidden.to(self.dtype), self.language.embed_tokens.weight.to(self.dtype)).float()


def rollout(queries: list[Tensor], keys: list[Tensor], bias: Tensor, row: Tensor, visual: slice) -> Tensor:
    """Attention rolled out from one token of each row of a batch to the visual tokens.

    A short reference for validation during training; the product's own is :mod:`steerseg.attention`. Heads
    are weighted by their largest attention to a visual token, layers are half attention and half residual.

    Args:
        queries: (B, H, S, head) of each layer, lowest first.
        keys: (B, H_kv, S, head) of each layer.
        bias: (B, 1, S, S) additive mask.
        row: (B,) position of the response token.
        visual: Place of the visual tokens.

    Returns:
        (B, number of visual tokens), not normalised.
    """
    batch, _, count, head = queries[0].shape
    index = torch.arange(batch, device=row.device)
    rolled = torch.zeros(batch, count, device=row.device)
    rolled[index, row] = 1.0
    for q, k in zip(reversed(queries), reversed(keys), strict=True):
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q.float() @ k.float().transpose(2, 3) / head**0.5 + bias.float()
        attention = scores.softmax(-1)  # (B, H, S, S)
        largest = attention[..., visual].amax(-1).mean(-1)  # (B, H)
        weights = largest / largest.amax(-1, keepdim=True)
        mixed = torch.einsum("bs,bhst,bh->bt", rolled, attention, weights) / q.shape[1]
        rolled = 0.5 * mixed + 0.5 * rolled
    return rolled[:, visual]
