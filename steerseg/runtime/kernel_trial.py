"""Trials of our own kernels on small numbers before they are used, since compilers and GPUs differ."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

log = logging.getLogger(__name__)

ROUNDED_ONCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest difference between sums that are rounded once and those that torch rounds two or three times.

It is a share of the largest value, by precision."""


OF_ONE_ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest difference between sums that are both rounded once, to half precision: the same kind of share."""


def is_recorded(*tensors: Tensor) -> bool:
    """Whether gradients through any of some tensors are wanted, which kernels without a backward pass cannot give."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


@torch.no_grad()
def largest_share(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The largest difference as a share of the largest value, over pairs of a result and what was expected.

    It is infinite where a result is not in the expected precision.
    """
    return max(
        float((given.float() - expected.float()).abs().max() / expected.float().abs().max())
        if given.dtype == expected.dtype
        else float("inf")
        for given, expected in pairs
    )


def passes(largest_difference: Callable[[], float], most: float, otherwise: str) -> bool:
    """Whether kernels run and give torch's results.

    Args:
        largest_difference: Runs both; gives the difference as a share of the largest value.
        most: Largest accepted difference.
        otherwise: What happens without the kernels, for the log.

    Raises:
        torch.OutOfMemoryError: Even small numbers found no room.
    """
    try:
        difference = largest_difference()
    except torch.OutOfMemoryError:  # which says nothing about kernels
        raise
    except Exception as error:  # of whatever kind: a compiler's, a driver's, or that there is no Triton
        log.warning("%s: %s", otherwise, error)
        return False
    if not difference <= most:  # NaN is no answer either
        log.warning(
            "%s: its kernels differ from torch by %.1e, expected %.1e at most", otherwise, difference, most
        )
        return False
    return True


def pass_on_gpu(
    device: torch.device,
    dtype: torch.dtype,
    tolerance: Mapping[torch.dtype, float],
    largest_difference: Callable[[torch.device, torch.dtype], float],
    otherwise: str,
) -> bool:
    """Like :func:`passes`, for kernels that support a GPU and some precisions only.

    Args:
        device: Where the kernels would run; any but a GPU fails.
        dtype: Of the numbers.
        tolerance: Largest accepted difference by supported precision.
        largest_difference: Runs both on a device in a precision.
        otherwise: What happens without the kernels, for the log.
    """
    if device.type != "cuda" or dtype not in tolerance:
        return False
    return passes(lambda: largest_difference(device, dtype), tolerance[dtype], otherwise)
