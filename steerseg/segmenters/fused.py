"""Small operations of SAM 2 that read and write as little as possible: by Triton on a GPU, by torch elsewhere.

Under autocast a layer norm of rounded numbers is three passes over memory (to float32, the norm, back), and a rotation
by complex numbers five. Each is one pass here, with the sums in float32 as before.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from sam2.modeling.memory_encoder import CXBlock
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steerseg.runtime.kernel_trial import OF_ONE_ROUNDING, largest_share, pass_on_gpu
from steerseg.runtime.planned_attention import attempt, cudnn_attends, random_attention

_TOLERANCE = {torch.float32: 1e-5, **OF_ONE_ROUNDING}
"""Largest difference between kernels and torch as a share of the largest value: of one rounding."""

_FEW_CHANNELS = 4
"""Products of matrices are faster for more."""

_MANY_OBJECTS = 6
"""From so many objects on cuDNN attends to memories faster than our kernel, which divides the keys of few."""

_BLOCK_OF_SAM2 = ("dwconv", "norm", "pwconv1", "act", "pwconv2", "gamma")
_BLOCK_OF_TRANSFORMERS = (
    "depthwise_conv",
    "layer_norm",
    "pointwise_conv1",
    "activation",
    "pointwise_conv2",
    "scale",
)
"""Names of the parts of a block that fuses a memory, in their order."""

_Forward = Callable[[Any, Tensor], Tensor]
_FORWARDS: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, _Forward]]] = WeakKeyDictionary()

AttentionTiles = tuple[int, int, int, int]
"""Queries and keys of a tile, warps and stages."""

ATTENTION_TILES: tuple[AttentionTiles, ...] = ((128, 64, 8, 3), (64, 64, 4, 2), (64, 32, 4, 2))
"""Largest first: about 180, 110 and 70 KB of shared memory for SAM 2's widths on an H100, where the first is fastest.

On GPUs with 100 KB they take 147, 74 and 53 KB."""


def add_and_norm(
    residual: Tensor, added: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Add, and take the layer norm of the sum.

    Args:
        residual: (..., C), contiguous.
        added: (..., C), contiguous; nothing is added where ``None``.
        norm: Over the last axis, with weight and bias.
        dtype: Of the norm. The sum has the precision of torch's addition.

    Returns:
        The sum and the norm of the sum.
    """
    if kernels_work(residual.device, residual.dtype):
        from steerseg.segmenters.fused_kernels import (
            add_and_norm as by_kernel,  # Triton is not there everywhere
        )

        return by_kernel(residual, added, norm.weight, norm.bias, norm.eps, dtype)
    return _add_and_norm(residual, added, norm, dtype)


def add_in_precision(first: Tensor, second: Tensor, dtype: torch.dtype, *, alpha: float = 1.0) -> Tensor:
    """Add in the larger precision of both and keep the sum in another, in one pass.

    Args:
        first: (..., C); any strides.
        second: Of a shape that broadcasts to it, without gradients.
        dtype: Of the sum.
        alpha: Times ``second``.

    Returns:
        The sum, contiguous.
    """
    total = torch.empty(first.shape, dtype=dtype, device=first.device)
    return torch.add(first, second, alpha=alpha, out=total)


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor, count: int) -> Tensor:
    """Rotate pairs of neighbouring channels by angles of the vectors' positions, in place.

    Args:
        vectors: (N, L, C), contiguous.
        cos: (P, C / 2) float32, by position; positions after the last one begin anew.
        sin: The same.
        count: How many of the L vectors are rotated, from the first on.
    """
    if kernels_work(vectors.device, vectors.dtype):
        from steerseg.segmenters.fused_kernels import rotate as by_kernel  # Triton is not there everywhere

        return by_kernel(vectors, cos, sin, count)
    return _rotate(vectors, cos, sin, count)


def norm_channels(pictures: Tensor, norm: Any) -> Tensor:
    """The layer norm of each position's channels.

    Args:
        pictures: (N, C, h, w).
        norm: A package's own, with weight, bias and ``eps``.

    Returns:
        (N, C, h, w) in the precision of ``pictures``, to which what comes next would round it.
    """
    if kernels_work(pictures.device, pictures.dtype):
        from steerseg.segmenters.fused_kernels import (
            norm_channels as by_kernel,  # Triton is not there everywhere
        )

        return by_kernel(pictures, norm.weight, norm.bias, norm.eps)
    return _norm_channels(pictures, norm)


def convolve_each(pictures: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel on its own; sums are in float32.

    Args:
        pictures: (N, C, h, w).
        weight: (C, 1, k, k), ``k`` odd.
        bias: (C,).

    Returns:
        (N, C, h, w); beyond the edges lie zeros.
    """
    if kernels_work(pictures.device, pictures.dtype):
        from steerseg.segmenters.fused_kernels import (
            convolve_each as by_kernel,  # Triton is not there everywhere
        )

        return by_kernel(pictures, weight, bias)
    return F.conv2d(pictures, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def halve(pictures: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve few channels by windows of 3 x 3 around every second position; sums are in float32.

    Args:
        pictures: (N, D, h, w).
        weight: (C, D, 3, 3).
        bias: (C,).

    Returns:
        (N, C, ceil(h / 2), ceil(w / 2)); beyond the edges lie zeros.
    """
    if kernels_work(pictures.device, pictures.dtype):
        from steerseg.segmenters.fused_kernels import halve as by_kernel  # Triton is not there everywhere

        return by_kernel(pictures, weight, bias)
    return F.conv2d(pictures, weight, bias, stride=2, padding=1)


def project_and_activate(x: Tensor, layer: nn.Linear, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """``activation(layer(x))``, by one product where a GPU applies ReLU or GELU to sums before they are rounded.

    Its GELU is the one by tanh, which is 5e-4 off at most. Torch rounds twice, and is further off.

    Args:
        x: (..., C) in the precision of the layer.
        layer: With a bias.
        activation: What comes next, a module or a function.

    Returns:
        (..., C').
    """
    # The second is that of transformers, which take a second to import.
    gelu = type(activation) is nn.GELU or type(activation).__name__ == "GELUActivation"
    known = gelu or activation is F.relu or type(activation) is nn.ReLU
    weight, bias = layer.weight, layer.bias
    if (
        known
        and bias is not None
        and x.dtype == weight.dtype
        and activation_is_fused(x.device, x.dtype, gelu)
    ):
        rows = torch._addmm_activation(bias, x.flatten(0, -2), weight.T, use_gelu=gelu)
        return rows.view(*x.shape[:-1], -1)
    return activation(layer(x))


@functools.cache
def activation_is_fused(device: torch.device, dtype: torch.dtype, gelu: bool) -> bool:
    """Whether a GPU applies an activation within a product, and gives torch's results; tried once."""
    difference = functools.partial(activation_difference, gelu=gelu)
    return pass_on_gpu(
        device, dtype, OF_ONE_ROUNDING, difference, "products and activations run one after the other"
    )


@torch.inference_mode()
def activation_difference(device: torch.device, dtype: torch.dtype, *, gelu: bool) -> float:
    """The largest difference between an activation within a product and after it, as a share of the largest value."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(device, dtype) for shape in ((70, 64), (96, 64), (96,))
    )
    exact = F.linear(x.float(), weight.float() / 8, bias.float())
    expected = (F.gelu(exact) if gelu else F.relu(exact)).to(dtype)
    return largest_share([(torch._addmm_activation(bias, x, weight.T / 8, use_gelu=gelu), expected)])


@functools.cache
def narrow_attention_tiles(
    device: torch.device, dtype: torch.dtype, width: int, narrow: int
) -> AttentionTiles | None:
    """Find tiles in which :func:`narrow_attention` is right for a width of keys and values.

    They are tried once for each width, since a GPU may have too little shared memory for the largest.

    Args:
        device: Where the kernels would run.
        dtype: Of keys and values; half precision only.
        width: Channels of a key, a power of two.
        narrow: Channels of a value, a smaller power of two.

    Returns:
        The largest tiles that work; ``None`` where none do, or on a CPU.
    """
    fits = all(16 <= size <= 256 and size & (size - 1) == 0 for size in (width, narrow))
    if dtype == torch.float32 or narrow >= width or not fits:
        return None
    for number, tiles in enumerate(ATTENTION_TILES, start=1):
        last = number == len(ATTENTION_TILES)
        otherwise = (
            "SAM 2 projects its memories before they are mixed" if last else "SAM 2 mixes by smaller tiles"
        )
        difference = functools.partial(narrow_attention_difference, width=width, narrow=narrow, tiles=tiles)
        if pass_on_gpu(device, dtype, _TOLERANCE, difference, otherwise):
            return tiles
    return None


def narrow_attention(query: Tensor, key: Tensor, value: Tensor, tiles: AttentionTiles) -> Tensor:
    """Attention of one head whose values are narrower than its keys.

    Where values are projected to the keys' width, that can be left for later: a row's weights sum to one. Torch's
    attentions take values of the keys' width only, which for SAM 2's memories is four times as wide.

    Args:
        query: (N, L, C).
        key: (N, S, C).
        value: (N, S, V).
        tiles: As :func:`narrow_attention_tiles` gives them.

    Returns:
        (N, L, V).
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    planned = _by_cudnn(query, key, value) if len(query) >= _MANY_OBJECTS else None
    if planned is not None:
        return planned
    from steerseg.segmenters.fused_kernels import (
        narrow_attention as by_kernel,
    )  # Triton is not there everywhere

    return by_kernel(query, key, value, tiles)


def self_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one head, by whatever is fastest for as many objects: (N, L, C) each, and the result."""
    planned = _by_cudnn(query, key, value) if len(query) > 1 else None
    return one_head_attention(query, key, value) if planned is None else planned


def one_head_attention(
    query: Tensor, key: Tensor, value: Tensor, backend: SDPBackend | None = None
) -> Tensor:
    """Attention of one head by one of torch's back ends, its own choice where ``None``: (N, L, C) each."""
    with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


def _by_cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """Attention of one head; ``None`` where cuDNN does not do it."""
    if not cudnn_attends(query.device, query.dtype, query.shape[-1], value.shape[-1]):
        return None
    by_cudnn = functools.partial(one_head_attention, query, key, value, SDPBackend.CUDNN_ATTENTION)
    return attempt(query, key, value, by_cudnn)


@torch.inference_mode()
def narrow_attention_difference(
    device: torch.device, dtype: torch.dtype, *, width: int, narrow: int, tiles: AttentionTiles
) -> float:
    """The largest difference between :func:`narrow_attention` and torch, as a share of the largest value."""
    query, key, value = (part[:, 0] for part in random_attention(device, dtype, width, narrow))
    expected = one_head_attention(query, key, value)
    return largest_share([(narrow_attention(query, key, value, tiles), expected)])


@contextmanager
def in_one_pass(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, norms and some convolutions of a model read and write their numbers once, if that is wanted.

    These are layer norms, convolutions of each channel on its own, of single positions, and those that halve a
    picture of few channels. Torch takes several passes for the first, and is slow at the others. In the blocks
    that fuse a memory, scale and sum are one pass, too.
    """
    known = _forwards_of(model) if wanted else []
    replaced = [(module, forward) for module, forward in known if "forward" not in module.__dict__]
    for module, forward in replaced:
        module.forward = MethodType(forward, module)
    try:
        yield
    finally:
        for module, _ in replaced:
            del module.__dict__["forward"]


def _forwards_of(model: nn.Module) -> list[tuple[nn.Module, _Forward]]:
    """The modules that are computed in one pass, and how; found once, since a model has hundreds of others."""
    if model not in _FORWARDS:
        found = ((module, _in_one_pass(module)) for module in model.modules())
        _FORWARDS[model] = [(module, forward) for module, forward in found if forward is not None]
    return _FORWARDS[model]


def _in_one_pass(module: Any) -> _Forward | None:
    """How a module is computed in one pass; ``None`` where it is left as it is."""
    if type(module) is LayerNorm2d or getattr(module, "data_format", "") == "channels_first":
        return _channels_normed
    if _fuses_memory(module):
        return _fused_memory
    if type(module) is nn.LayerNorm and module.bias is not None and module.weight.dim() == 1:
        return _normed
    if type(module) is not nn.Conv2d or module.bias is None or module.padding_mode != "zeros":
        return None
    side, stride, padding = module.kernel_size[0], module.stride[0], module.padding
    if module.kernel_size != (side, side) or padding != (side // 2, side // 2) or module.dilation != (1, 1):
        return None
    if side == stride == module.groups == 1:
        return _projected
    if side % 2 == 0 or module.stride != (stride, stride):
        return None
    if module.groups == module.in_channels == module.out_channels > 1 and stride == 1:
        return _convolved_each
    few = module.groups == 1 and module.in_channels <= _FEW_CHANNELS
    return _halved if few and (side, stride) == (3, 2) else None


def _fuses_memory(module: Any) -> bool:
    if type(module) is CXBlock:
        return module.gamma is not None and type(module.drop_path) is nn.Identity
    # One of each video model of transformers.
    return type(module).__name__.endswith("VideoMemoryFuserCXBlock")


def _channels_normed(norm: Any, x: Tensor) -> Tensor:
    return norm_channels(x, norm)


def _normed(norm: Any, x: Tensor) -> Tensor:
    autocast = torch.is_autocast_enabled(x.device.type)  # whose norms are in float32
    return add_and_norm(x, None, norm, torch.float32 if autocast else x.dtype)[1]


def _projected(module: Any, x: Tensor) -> Tensor:
    if x.stride(1) != 1:  # channels are apart, so that a product would bring them together first
        return F.conv2d(x, module.weight, module.bias)
    return F.linear(x.permute(0, 2, 3, 1), module.weight.flatten(1), module.bias).permute(0, 3, 1, 2)


def _fused_memory(block: Any, x: Tensor) -> Tensor:
    """What a block adds is scaled and added in one pass; autocast would bring it to float32 in another."""
    names = _BLOCK_OF_SAM2 if type(block) is CXBlock else _BLOCK_OF_TRANSFORMERS
    convolve, norm, inner, activation, outer, scale = (getattr(block, name) for name in names)
    added = norm(convolve(x)).permute(0, 2, 3, 1)
    added = outer(project_and_activate(added, inner, activation)).permute(0, 3, 1, 2)
    with torch.autocast(added.device.type, enabled=False):
        return torch.addcmul(x, scale[:, None, None], added)


def _convolved_each(module: Any, x: Tensor) -> Tensor:
    return convolve_each(*_rounded(module, x))


def _halved(module: Any, x: Tensor) -> Tensor:
    return halve(*_rounded(module, x))


def _rounded(module: Any, x: Tensor) -> list[Tensor]:
    """Input, weight and bias in the precision in which a convolution takes them."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return [part.to(dtype) for part in (x, module.weight, module.bias)]


def _norm_channels(pictures: Tensor, norm: Any) -> Tensor:
    last = pictures.permute(0, 2, 3, 1).float()
    with torch.autocast(pictures.device.type, enabled=False):
        normed = F.layer_norm(last, norm.weight.shape, norm.weight, norm.bias, norm.eps)
    return normed.permute(0, 3, 1, 2).to(pictures.dtype)


def _add_and_norm(
    residual: Tensor, added: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    total = residual if added is None else residual + added
    with torch.autocast(total.device.type, enabled=False):
        normed = F.layer_norm(total.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return total, normed.to(dtype)


def _rotate(vectors: Tensor, cos: Tensor, sin: Tensor, count: int) -> Tensor:
    period = len(cos)
    # (N, repeats, P, C / 2, 2); the angles are not repeated in memory.
    pairs = vectors[:, :count].reshape(len(vectors), -1, period, cos.shape[1], 2).float()
    first, second = pairs.unbind(-1)
    rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    vectors[:, :count] = rotated.reshape(len(vectors), count, -1).to(vectors.dtype)
    return vectors


@functools.cache
def kernels_work(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on a device and give torch's results; tried once."""
    return pass_on_gpu(device, dtype, _TOLERANCE, largest_difference, "SAM 2 runs without kernels of its own")


@torch.inference_mode()
def largest_difference(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference between kernels and torch, as a share of the largest value."""
    from steerseg.segmenters import fused_kernels

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    norm = nn.LayerNorm(72, eps=1e-6, device=device)
    norm.weight.data, norm.bias.data = random(72), random(72)
    residual, added = random(3, 35, 72) * 3 + 1, random(3, 35, 72).to(dtype)
    pairs: list[tuple[Tensor, Tensor]] = []
    for base, more in ((residual, None), (residual, added), (added, added)):
        both = fused_kernels.add_and_norm(base, more, norm.weight, norm.bias, norm.eps, dtype)
        pairs += zip(both, _add_and_norm(base, more, norm, dtype), strict=True)
    channels = LayerNorm2d(24).to(device)
    channels.weight.data, channels.bias.data = random(24), random(24)
    pictures = (random(2, 24, 9, 7) * 3 + 1).to(dtype)
    for each in (pictures, pictures.contiguous(memory_format=torch.channels_last), pictures.transpose(2, 3)):
        given = fused_kernels.norm_channels(each, channels.weight, channels.bias, channels.eps)
        pairs.append((given, _norm_channels(each, channels)))
    for weight, kernel, how in (
        (random(24, 1, 7, 7), fused_kernels.convolve_each, {"padding": 3, "groups": 24}),
        (random(6, 1, 3, 3), fused_kernels.halve, {"padding": 1, "stride": 2}),
        (random(10, 5, 3, 3), fused_kernels.halve, {"padding": 1, "stride": 2}),
    ):
        given = pictures[:, : weight.shape[1] * how.get("groups", 1)]
        bias = random(len(weight)).to(dtype)
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with exact, torch.autocast(device.type, enabled=False):
            expected = F.conv2d(given.float(), weight.to(dtype).float(), bias.float(), **how)
        pairs.append((kernel(given, weight.to(dtype), bias), expected.to(dtype)))
    vectors, cos, sin = random(2, 45, 16).to(dtype), random(20, 8), random(20, 8)
    pairs.append(
        (fused_kernels.rotate(vectors.clone(), cos, sin, 40), _rotate(vectors.clone(), cos, sin, 40))
    )
    return largest_share(pairs)
