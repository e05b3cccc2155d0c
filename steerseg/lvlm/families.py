"""What differs between families of vision-language models, as data."""

from __future__ import annotations

from dataclasses import dataclass

from steerseg.errors import ModelError


@dataclass(frozen=True)
class Family:
    """How one family writes vision into a chat and how its visual tokens lie on the picture.

    Attributes:
        model_type: ``config.model_type`` of the Hugging Face checkpoint.
        vision_start: Text that opens a picture or a video in the chat.
        vision_end: Text that closes it.
        image_token: The placeholder of one visual token of an image.
        video_token: The placeholder of one visual token of a video.
        soft_token: An existing special token that ordinary chats never use. It marks the places whose
            embeddings the soft prompt replaces, so that no vocabulary is resized.
        temporal_merge: Frames of a video that become one grid slice.
    """

    model_type: str
    vision_start: str
    vision_end: str
    image_token: str
    video_token: str
    soft_token: str
    temporal_merge: int


QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    vision_start="<|vision_start|>",
    vision_end="<|vision_end|>",
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    soft_token="<|quad_start|>",
    temporal_merge=2,
)

FAMILIES = {family.model_type: family for family in (QWEN2_5_VL,)}


def family_of(model_type: str) -> Family:
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
