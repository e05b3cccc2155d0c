"""Projections of one input as one product, where a single token is read.

A token that is generated reads every weight once. Small products leave most of a GPU's memory bandwidth unused, and
each waits for the one before. So queries, keys and values, and gate and input of an MLP, are one product each. Longer
texts are projected as before: parts of a joint result are not contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that a model calls in this order, on the same input."""

_JOINT_TOKENS = 1  # of each chat


def join_projections(model: nn.Module) -> int:
    """Join the projections of a frozen model's layers; returns how many products are saved a token.

    Once joined, the model stays in its precision and on its device.
    """
    return sum(
        _join([getattr(module, name, None) for name in group])
        for module in model.modules()
        for group in _GROUPS
    )


class _Joint:
    """Layers whose weights lie in one tensor.

    Args:
        layers: Plain ones with one input width. Their weights become views of the joint one.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._layers = list(layers)
        self._sizes = [layer.out_features for layer in layers]
        self._weight = torch.cat([layer.weight.detach() for layer in layers])
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._input: tuple[Tensor, int] | None = None  # with its version, which changes with its content
        self._parts: dict[int, Tensor] = {}
        for layer, weight in zip(layers, torch.split(self._weight, self._sizes), strict=True):
            layer.weight = nn.Parameter(weight, requires_grad=False)
        if self._bias is not None:
            for layer, bias in zip(layers, torch.split(self._bias, self._sizes), strict=True):
                layer.bias = nn.Parameter(bias, requires_grad=False)

    def project(self, index: int, x: Tensor) -> Tensor:
        """The output of one of the layers; those of the others are kept until they are asked for."""
        layer = self._layers[index]
        if x.dim() != 3 or x.shape[1] != _JOINT_TOKENS or x.requires_grad:
            return F.linear(x, layer.weight, layer.bias)
        if index == 0:
            parts = torch.split(F.linear(x, self._weight, self._bias), self._sizes, dim=-1)
            self._input, self._parts = (x, _version(x)), dict(enumerate(parts))
        same = self._input is not None and self._input[0] is x and self._input[1] == _version(x)
        part = self._parts.pop(index, None) if same else None
        if not self._parts:
            self._input = None
        return F.linear(x, layer.weight, layer.bias) if part is None else part


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version  # nobody counts what changes a tensor in inference mode


def _is_plain(layer: nn.Linear) -> bool:
    """Whether nobody has changed how it computes, or keeps its weights in a layout of their own."""
    return "forward" not in layer.__dict__ and type(layer.weight.data) is Tensor


@torch.no_grad()
def _join(layers: Sequence[object]) -> int:
    plain = [layer for layer in layers if type(layer) is nn.Linear and _is_plain(layer)]
    alike = {(layer.in_features, layer.bias is None, layer.weight.dtype) for layer in plain}
    if len(plain) != len(layers) or len(alike) != 1:
        return 0  # quantised layers have a layout of their own
    joint = _Joint(plain)
    for index, layer in enumerate(plain):
        layer.__dict__["forward"] = partial(joint.project, index)
    return len(plain) - 1
