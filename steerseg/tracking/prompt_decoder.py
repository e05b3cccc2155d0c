"""Prompts decoded on their own frames, and the memories that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerseg.points import PointPrompt
from steerseg.segmenters.base import ObjectMemory, Segmenter
from steerseg.tracking.features import EncodedVideo
from steerseg.tracking.frame_encoder import FrameEncoder
from steerseg.tracking.packed_masks import mask_at_size
from steerseg.tracking.tracklets import DecodedPrompt, Prompt, TrackedFrame

_MAX_DECODED = 32  # points of one call; each takes 20 MB of a GPU at SAM 2's usual size
_ON_OBJECT, _FIRST_CORNER, _LAST_CORNER = 1, 2, 3  # labels of clicks, as segmenters take them


class PromptDecoder:
    """Decodes point prompts and prompts of annotators.

    Args:
        segmenter: Decodes prompts and encodes memories.
        encoder: Provides features of frames.
    """

    def __init__(self, segmenter: Segmenter, encoder: FrameEncoder) -> None:
        self._segmenter = segmenter
        self._encoder = encoder

    def decode_points(self, encoded: EncodedVideo, points: Sequence[PointPrompt]) -> list[DecodedPrompt]:
        """Decode one positive click a row, many in one call; points with an empty mask are left out.

        Args:
            encoded: The video.
            points: The points, on any frames.

        Returns:
            The answers, ordered by frame.
        """
        decoded: list[DecodedPrompt] = []
        ordered = sorted(points, key=lambda point: point.frame)
        for start in range(0, len(ordered), _MAX_DECODED):
            part = ordered[start : start + _MAX_DECODED]
            positions = torch.tensor([[[point.x, point.y]] for point in part], dtype=torch.float32)
            labels = torch.full((len(part), 1), _ON_OBJECT, dtype=torch.int32)
            levels = self._encoder.levels(encoded, [point.frame for point in part])
            answers = self._segmenter.decode_clicks(levels, positions, labels)
            decoded += map(DecodedPrompt, part, answers)
        return [each for each in decoded if bool(each.answer.mask.any())]

    def decode_prompt(self, encoded: EncodedVideo, prompt: Prompt) -> DecodedPrompt:
        """Decode clicks and a box together, or take a mask as it is.

        Raises:
            ValueError: A mask of another size than the video's.
        """
        levels = self._encoder.levels(encoded, [prompt.frame])
        if prompt.mask is not None:
            _check_size(encoded, prompt.mask)
            return DecodedPrompt(prompt.as_point(), self._segmenter.decode_mask(levels, prompt.mask))
        earlier = prompt.earlier if prompt.earlier is not None and prompt.earlier.any() else None
        if earlier is not None:
            _check_size(encoded, earlier)
        (answer,) = self._segmenter.decode_clicks(levels, *_clicks(prompt), earlier)
        return DecodedPrompt(prompt.as_point(), answer)

    def decode_prompts(self, encoded: EncodedVideo, prompts: Sequence[Prompt]) -> list[DecodedPrompt]:
        """Decode one prompt a row: clicks and boxes that are equally many points in one call, masks one by one.

        Raises:
            ValueError: A mask of another size than the video's.
        """
        decoded: dict[int, DecodedPrompt] = {}
        alike: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            if prompt.mask is None and prompt.earlier is None:
                alike.setdefault(len(prompt.points) + 2 * (prompt.box is not None), []).append(index)
            else:
                decoded[index] = self.decode_prompt(encoded, prompt)
        for indices in alike.values():
            for start in range(0, len(indices), _MAX_DECODED):
                part = indices[start : start + _MAX_DECODED]
                positions, labels = zip(*(_clicks(prompts[index]) for index in part), strict=True)
                levels = self._encoder.levels(encoded, [prompts[index].frame for index in part])
                answers = self._segmenter.decode_clicks(levels, torch.cat(positions), torch.cat(labels))
                for index, answer in zip(part, answers, strict=True):
                    decoded[index] = DecodedPrompt(prompts[index].as_point(), answer)
        return [decoded[index] for index in range(len(prompts))]

    def decode_correction(
        self, encoded: EncodedVideo, prompt: Prompt, tracked: TrackedFrame
    ) -> DecodedPrompt:
        """Decode clicks and a box on a frame where the object was tracked."""
        levels = self._encoder.levels(encoded, [prompt.frame])
        answer = self._segmenter.decode_correction(
            levels, *_clicks(prompt), tracked.conditioned, tracked.logits
        )
        return DecodedPrompt(prompt.as_point(), answer)

    def remember(self, encoded: EncodedVideo, decoded: Sequence[DecodedPrompt]) -> list[ObjectMemory]:
        """Turn answers, all of one kind, into the memories that condition other frames."""
        levels = self._encoder.levels(encoded, [each.point.frame for each in decoded])
        return self._segmenter.encode_memories(levels, [each.answer for each in decoded])

    def remember_each(self, encoded: EncodedVideo, decoded: Sequence[DecodedPrompt]) -> list[ObjectMemory]:
        """Like :meth:`remember`, for any number of answers of any kind."""
        memories: dict[int, ObjectMemory] = {}
        for clicked in (True, False):
            alike = [index for index, each in enumerate(decoded) if each.answer.clicked == clicked]
            for start in range(0, len(alike), _MAX_DECODED):
                part = alike[start : start + _MAX_DECODED]
                memories.update(zip(part, self.remember(encoded, [decoded[i] for i in part]), strict=True))
        return [memories[index] for index in range(len(decoded))]

    def remember_masks(self, encoded: EncodedVideo, decoded: Sequence[DecodedPrompt]) -> list[ObjectMemory]:
        """The memories that answers leave when their masks, at the video's size, are prompted again."""
        again: list[DecodedPrompt] = []
        for each in decoded:
            levels = self._encoder.levels(encoded, [each.point.frame])
            mask = mask_at_size(each.answer.logits, encoded.height, encoded.width)
            again.append(DecodedPrompt(each.point, self._segmenter.decode_mask(levels, mask)))
        return self.remember(encoded, again)


def _clicks(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Positions (1, P, 2) and labels (1, P) of a prompt's clicks; a box is two of them, and comes first."""
    positions, labels = list(prompt.points), [int(label) for label in prompt.labels]
    if prompt.box is not None:
        x, y, width, height = prompt.box
        positions = [(x, y), (x + width, y + height), *positions]
        labels = [_FIRST_CORNER, _LAST_CORNER, *labels]
    return torch.tensor([positions], dtype=torch.float32), torch.tensor([labels], dtype=torch.int32)


def _check_size(encoded: EncodedVideo, mask: NDArray[np.bool_]) -> None:
    size = (encoded.height, encoded.width)
    if mask.shape != size:
        raise ValueError(f"the mask is {mask.shape}, but the frames are {size}")
