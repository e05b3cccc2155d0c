"""Qwen3.5: as Qwen3-VL to look at, on a text model of recurrent layers with one that attends after every three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from steerseg.lvlm.families.qwen3_vl import Qwen3VL


class Qwen3_5(Qwen3VL):  # noqa: N801 (the model's own name)
    """The rollout is made of the layers that attend.

    The makers' template lets the model think at length before it answers, unless it is told not to. The questions ask
    for the reasoning that is wanted, and the response token has to be where the answer begins.
    """

    model_type = "qwen3_5"
    template = {"enable_thinking": False}  # noqa: RUF012 (never changed)
    gpu_packages: ClassVar[Mapping[str, str]] = {
        "fla": "flash-linear-attention fla-core",
        "causal_conv1d": "causal-conv1d",
    }
