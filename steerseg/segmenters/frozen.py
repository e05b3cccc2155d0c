"""What segmenters of the SAM 2 family share: precision, pixels, clicks, and steps that a GPU replays."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steerseg.config import SegmenterConfig
from steerseg.runtime.cuda_graphs import CapturedCalls
from steerseg.runtime.devices import multiplies_bfloat16
from steerseg.segmenters.base import AttendedMemories, StepOutput
from steerseg.segmenters.pixels import IMAGENET, PixelStatistics, coverage, preprocess, preprocess_bicubic

LARGEST_LOGIT = 32.0
"""Of an answer that clicks correct; SAM 2's own predictor clamps there."""

_EARLIER_LOGIT = 10.0  # what SAM 2 writes for a certain pixel of a given mask


class Step(Protocol):
    """One frame of tracking as a function of tensors, which never waits for the host in between."""

    def arguments(
        self,
        attended: AttendedMemories,
        levels: Sequence[Tensor],
        memories: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> tuple[Hashable, list[Tensor], list[Tensor]]:
        """Order the arguments of :meth:`steerseg.segmenters.base.Segmenter.step` as :meth:`__call__` takes them."""
        ...

    def __call__(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The fields of a :class:`steerseg.segmenters.base.StepOutput`; see :mod:`steerseg.runtime.cuda_graphs`."""
        ...

    def attend(self, key: Hashable, rows: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The first part of a step alone: image features that have attended to the memories, (N, C, h, w)."""
        ...


class FrozenSegmenter(ABC):
    """The common part of a :class:`steerseg.segmenters.base.Segmenter`.

    Args:
        model: The network, on its device.
        version: Name and hash of configuration and weights.
        dtype: ``torch.bfloat16`` runs a GPU under autocast; a CPU goes by ``config``.
        config: How frames and clicks reach the model.

    Attributes:
        statistics: Of the pixels that the model was trained with.
        captures: Whether a GPU's steps are replayed as CUDA graphs once they were seen.
        captured_steps: The captured steps; ``None`` before the first step.
    """

    statistics: PixelStatistics = IMAGENET

    def __init__(
        self,
        model: Any,
        *,
        version: str,
        dtype: torch.dtype = torch.float32,
        config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.version = version
        self.device: torch.device = model.device
        if self.device.type == "cpu":
            native = config.cpu_precision == "native" and multiplies_bfloat16()
            dtype = torch.bfloat16 if native else torch.float32
        self._dtype = dtype
        if self._precision_is_lower:
            round_multiplied_weights(model, dtype)
        self._config = config
        self.captured_steps: CapturedCalls | None = None
        self.captures = True

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the model's input in pixels."""

    @property
    @abstractmethod
    def logits_side(self) -> int:
        """Side of the low-resolution mask logits."""

    @abstractmethod
    def tracking_step(self) -> Step:
        """The step as a function of tensors; sets :attr:`captured_steps` when it is made.

        Raises:
            RuntimeError: No memory was encoded yet.
        """

    # ------------------------------------------------------------------ what comes in

    def _pixels(self, frames: NDArray[np.uint8]) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> (B, 3, S, S) on the device, in the precision of the first product."""
        if self._config.resampling == "bicubic":
            pixels = preprocess_bicubic(frames, self.image_size, self.statistics, self.device)
        else:
            pixels = preprocess(self._on_device(frames), self.image_size, self.statistics)
        return pixels.to(self._dtype) if self._precision_is_lower else pixels

    def _on_device(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Frames on the model's device. A GPU copies them from page-locked memory, and nobody waits for it."""
        tensor = torch.from_numpy(pixels)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _click_pixels(self, positions: Tensor) -> Tensor:
        """Positions in [0, 1] as the model's pixel coordinates, to which it adds half a pixel itself."""
        return (positions * self.image_size - (0.5 if self._config.clicks == "exact" else 0.0)).to(
            self.device
        )

    def _earlier_logits(self, mask: NDArray[np.bool_]) -> Tensor:
        """(1, 1, h, w) logits of a mask that clicks correct, on the model's grid of first answers."""
        return (coverage(mask, self.logits_side).to(self.device) * 2 - 1) * _EARLIER_LOGIT

    def _mask_pixels(self, mask: NDArray[np.bool_]) -> Tensor:
        """(1, 1, S, S) float32, 1 where a mask of a frame's size covers half of a pixel or more."""
        return (coverage(mask, self.image_size).to(self.device) >= 0.5).float()

    # ------------------------------------------------------------------ precision

    @property
    def _precision_is_lower(self) -> bool:
        return self._dtype is not torch.float32

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._precision_is_lower:
            return torch.autocast(self.device.type, dtype=self._dtype)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _step_precision(self) -> Iterator[None]:
        """The precision of a step. A CPU attends by two matrix products in it: torch's one pass is in float32."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._precision())
            if self._precision_is_lower and self.device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.enter_context(_attention_products_as_given())
            yield

    # ------------------------------------------------------------------ steps

    @torch.inference_mode()
    def attend(
        self,
        attended: AttendedMemories,
        levels: Sequence[Tensor],
        spatial: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> Tensor:
        """Features of N frames that have attended to memories; never captured, since corrections are few."""
        step = self.tracking_step()
        return step.attend(*step.arguments(attended, levels, spatial, pointers, distances))

    def step(
        self,
        attended: AttendedMemories,
        levels: Sequence[Tensor],
        spatial: Sequence[Tensor],
        pointers: Sequence[Tensor],
        distances: Tensor,
    ) -> StepOutput:
        """Track N objects on one frame each; on a GPU, a replay of a captured step."""
        step = self.tracking_step()
        call = self.captured_steps if self.captures and self.captured_steps is not None else step
        return StepOutput(*call(*step.arguments(attended, levels, spatial, pointers, distances)))

    def forget_steps(self) -> None:
        """Drop the captured steps, with the memory that they hold."""
        if self.captured_steps is not None:
            self.captured_steps.forget()

    @property
    def captures_steps(self) -> bool:
        """Whether steps are captured as CUDA graphs: on a GPU, unless that is switched off."""
        return self.device.type == "cuda" and self.captures

    @property
    def capture_seconds(self) -> float:
        """Seconds that capturing steps has taken so far."""
        return 0.0 if self.captured_steps is None else self.captured_steps.capture_seconds

    @contextlib.contextmanager
    def capturing_at_once(self) -> Iterator[None]:
        """Inside, a form of a step is captured when it is first seen.

        Raises:
            RuntimeError: No memory was encoded yet.
        """
        self.tracking_step()
        assert self.captured_steps is not None
        before, self.captured_steps.sights = self.captured_steps.sights, 1
        try:
            yield
        finally:
            self.captured_steps.sights = before


@contextlib.contextmanager
def _attention_products_as_given() -> Iterator[None]:
    """Inside, attention by matrix products has them in the precision of its arguments, and not in float32."""
    backends: Any = torch.backends.cuda  # for a CPU, too
    before = backends.fp16_bf16_reduction_math_sdp_allowed()
    backends.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        backends.allow_fp16_bf16_reduction_math_sdp(before)


def round_multiplied_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep in ``dtype`` what autocast would bring there at every use, hundreds of times a frame. The same numbers."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.to(dtype)
