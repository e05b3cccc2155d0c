"""Kernels of our own are tried on small numbers before they are used: compilers and cards differ."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

ROUNDED_ONCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest difference, as a share of the largest value, between sums that are rounded once and those that torch rounds
two or three times."""


@torch.no_grad()
def largest_share(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Largest difference as a share of the largest value, over results and what was expected of them.

    Infinite where a result is not in the expected precision.
    """
    return max(
        float((given.float() - expected.float()).abs().max() / expected.float().abs().max())
        if given.dtype == expected.dtype
        else float("inf")
        for given, expected in pairs
    )


def passes(largest_difference: Callable[[], float], most: float, otherwise: str) -> bool:
    """Whether kernels run and give what torch gives.

    Args:
        largest_difference: Runs both; the difference as a share of the largest value.
        most: Of it.
        otherwise: What happens where they do not, for the log.

    Raises:
        torch.OutOfMemoryError: Even small numbers found no room.
    """
    try:
        found = largest_difference()
    except torch.OutOfMemoryError:  # which says nothing about kernels
        raise
    except Exception as error:  # of whatever kind: a compiler's, a driver's, or that there is no Triton
        _log.warning("%s: %s", otherwise, error)
        return False
    if not found <= most:  # NaN is no answer either
        _log.warning(
            "%s: its kernels differ from torch by %.1e, expected %.1e at most", otherwise, found, most
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
    """The same for kernels that serve a GPU and numbers of some precisions only, each with a tolerance."""
    if device.type != "cuda" or dtype not in tolerance:
        return False
    return passes(lambda: largest_difference(device, dtype), tolerance[dtype], otherwise)
