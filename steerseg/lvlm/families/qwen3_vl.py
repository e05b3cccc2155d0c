"""Qwen3-VL: as Qwen2-VL, with time as text between the slices and features for several text layers."""

from __future__ import annotations

from steerseg.lvlm.families.qwen_vl import Qwen2VL
from steerseg.lvlm.vision import VisionKind


class Qwen3VL(Qwen2VL):
    """Each slice of a video has a wrapper of its own, which stands in place of the template's.

    So the model's makers wrote chats in transformers 4.57 and in vLLM. transformers 5 leaves the template's wrapper
    around all slices.
    """

    model_type = "qwen3_vl"

    def placeholder(self, kind: VisionKind) -> str:
        """With the wrapper that the template writes around a video."""
        token = self.token(kind)
        return f"{self.opening}{token}{self.closing}" if kind == "video" else token

    def token(self, kind: VisionKind) -> str:
        """The placeholder without its wrapper."""
        return super().placeholder(kind)
