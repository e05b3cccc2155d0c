"""Frozen vision-language models: chat, soft prompts, and the queries and keys of their attention."""

from steerseg.lvlm.base import LVLM, VisionFeatures

__all__ = ["LVLM", "VisionFeatures"]
