"""In the model process: what is prepared for training, as safetensors files with a card of JSON.

A *sample* file holds an example's targets on the token grids, a *context* file the vision features of a video's
keyframes, which the examples of that video share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open

from steerseg.errors import ModelError
from steerseg.grounding import VisionContext
from steerseg.lvlm import VisionFeatures
from steerseg.runtime.artefacts import write_tensors
from steerseg.runtime.lru import LruCache
from steerseg.training.trainer import TrainingSample

_CONTEXT_BYTES = 1 << 30  # vision features that stay in memory
_TENSORS = (
    "frame_target",
    "video_target",
    "frame_share",
    "video_share",
    "frame_rejected",
    "video_rejected",
)


class SampleCard(BaseModel):
    """The card of a sample file.

    Attributes:
        features: Name of the context file.
        question: The grounding question.
        weight: Weight of the example, in [0, 1].
    """

    features: str
    question: str
    weight: float


class ContextCard(BaseModel):
    """The card of a context file.

    Attributes:
        keyframes: The keyframes, as frames of the video.
        video: What :meth:`steerseg.lvlm.VisionFeatures.from_parts` needs for the video pass.
        frames: The same for the frame pass.
    """

    keyframes: tuple[int, ...]
    video: dict[str, Any]
    frames: dict[str, Any]


CardT = TypeVar("CardT", SampleCard, ContextCard)


def sample_path(folder: Path, key: str) -> Path:
    """The file of an example in the folder of a refinement."""
    return folder / "samples" / f"{key}.safetensors"


def write_sample(path: Path, sample: TrainingSample, features: str) -> None:
    """Write an example's targets.

    Args:
        path: The file.
        sample: The sample; its context is written by :func:`write_context`.
        features: Name of the context file.

    Raises:
        ArtefactError: The disk is full or not writable.
    """
    tensors = {name: tensor for name in _TENSORS if (tensor := getattr(sample, name)) is not None}
    card = SampleCard(features=features, question=sample.question, weight=sample.weight)
    write_tensors(path, tensors, {"card": card.model_dump_json()})


def write_context(path: Path, context: VisionContext) -> None:
    """Write the vision features of keyframes.

    Raises:
        ArtefactError: The disk is full or not writable.
    """
    card = ContextCard(keyframes=context.keyframes, video=context.video.card, frames=context.frames.card)
    tensors = {**context.video.tensors("video"), **context.frames.tensors("frames")}
    write_tensors(path, tensors, {"card": card.model_dump_json()})


def read_sample_card(path: Path) -> SampleCard:
    """The card of a sample file.

    Raises:
        ModelError: The file is missing or damaged.
    """
    return _read(path, SampleCard)[0]


class SampleReader:
    """Reads samples onto the CPU; the vision features that were used last stay in memory."""

    def __init__(self) -> None:
        self._contexts: LruCache[Path, VisionContext] = LruCache(
            _CONTEXT_BYTES, weigh=lambda context: context.video.nbytes + context.frames.nbytes
        )

    def sample(self, path: Path, features: Path) -> TrainingSample:
        """Read a sample.

        Args:
            path: The sample file.
            features: Folder of context files.

        Raises:
            ModelError: A file is missing or damaged.
        """
        card, tensors = _read(path, SampleCard)
        return TrainingSample(
            context=self.context(features / card.features),
            question=card.question,
            frame_target=tensors["frame_target"],
            video_target=tensors["video_target"],
            weight=card.weight,
            frame_share=tensors.get("frame_share"),
            video_share=tensors.get("video_share"),
            frame_rejected=tensors.get("frame_rejected"),
            video_rejected=tensors.get("video_rejected"),
        )

    def context(self, path: Path) -> VisionContext:
        """Read the vision features of keyframes.

        Raises:
            ModelError: The file is missing or damaged.
        """
        known = self._contexts.get(path)
        if known is not None:
            return known
        card, tensors = _read(path, ContextCard)
        context = VisionContext(
            keyframes=card.keyframes,
            video=VisionFeatures.from_parts(card.video, tensors, "video"),
            frames=VisionFeatures.from_parts(card.frames, tensors, "frames"),
        )
        self._contexts.put(path, context)
        return context


def _read(path: Path, kind: type[CardT]) -> tuple[CardT, dict[str, torch.Tensor]]:
    """A file's card and tensors.

    Raises:
        ModelError: It is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = kind.model_validate_json(file.metadata()["card"])
            return card, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); start the refinement again, which prepares its examples anew"
        ) from error
