"""Muon: momentum whose matrix updates are orthogonalised (K. Jordan and others, 2024), batched over layers.

It is what makes runs of minutes worth while: after 90 steps of 8 clips (2 M parameters) the loss of the answers
was 2.5 at a rate of 3e-3 and 2.3 at 8e-3, where AdamW at 1e-3 stood at 3.9. Matrices of one shape are updated
by one batched Newton–Schulz iteration, so the cost does not grow with the number of layers. Updates are scaled
to the root mean square that AdamW's have (0.2), so both optimisers take learning rates of one order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of (N, r, c) matrices towards 1 by a quintic Newton–Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices only.

    Args:
        params: Matrices. One whose rows are several matrices stacked (a fused qkv) is given in ``stacked``.
        lr: Learning rate.
        momentum: Of the gradient's moving average.
        weight_decay: Decoupled.
        stacked: Number of matrices in a parameter, by its ``id``; 1 where absent.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        stacked: dict[int, int] | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        stacked = stacked or {}
        self._shapes: list[list[tuple[tuple[int, ...], list[nn.Parameter]]]] = []
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                count = stacked.get(id(parameter), 1)
                rows, columns = parameter.shape
                by_shape[(count, rows // count, columns)].append(parameter)
            self._shapes.append(list(by_shape.items()))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group, shapes in zip(self.param_groups, self._shapes, strict=True):
            for shape, parameters in shapes:
                active: list[Tensor] = []
                gradients: list[Tensor] = []
                buffers: list[Tensor] = []
                for parameter in parameters:
                    if parameter.grad is None:
                        continue
                    active.append(parameter)
                    gradients.append(parameter.grad)
                    state = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    buffers.append(state["momentum"])
                if not active:
                    continue
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                nesterov = torch._foreach_lerp(gradients, buffers, group["momentum"])
                update = orthogonalise(torch.stack(nesterov).view(-1, *shape[1:]))
                update = update.view(len(active), -1, shape[2]) * (0.2 * max(shape[1:]) ** 0.5)
                torch._foreach_mul_(active, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(active, list(update.unbind(0)), alpha=-group["lr"])
