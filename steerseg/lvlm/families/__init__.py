"""Descriptions of families of vision-language models; `docs/adding-a-backbone.md` shows how to add one."""

from __future__ import annotations

from steerseg.errors import ModelError
from steerseg.lvlm.families.base import Family
from steerseg.lvlm.families.internvl import InternVL
from steerseg.lvlm.families.llava_onevision import LlavaOneVision
from steerseg.lvlm.families.qwen3_5 import Qwen3_5
from steerseg.lvlm.families.qwen3_vl import Qwen3VL
from steerseg.lvlm.families.qwen_vl import Qwen2_5VL, Qwen2VL
from steerseg.lvlm.families.smolvlm import SmolVLM

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: dict[str, type[Family]] = {
    family.model_type: family
    for family in (Qwen2VL, Qwen2_5VL, Qwen3VL, Qwen3_5, LlavaOneVision, InternVL, SmolVLM)
}


def family_of(model_type: str) -> type[Family]:
    """The family description for a checkpoint's ``model_type``.

    Raises:
        ModelError: The family is not supported.
    """
    try:
        return FAMILIES[model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"the vision-language model is of type {model_type!r}; supported types are: {known}. "
            "Choose a checkpoint of one of them in the preset."
        ) from None
