"""Chats about what a vision tower saw: their text, their tokens, and the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from steerseg.config import Placement
from steerseg.errors import ModelError
from steerseg.lvlm.families import Family
from steerseg.lvlm.plain_text import PlainText
from steerseg.lvlm.vision import VisionFeatures, VisionKind

KINDS: tuple[VisionKind, ...] = ("image", "video")


class ChatTokenizer:
    """Writes chats and tokenises them.

    Args:
        family: Describes what differs between families of models.
        name: The model's name in messages.

    Attributes:
        vision_ids: Id of the token that stands for each visual token, by kind.
        soft_ids: Id of the placeholder token that marks a soft prompt, by kind.
    """

    def __init__(self, family: Family, name: str) -> None:
        self._family = family
        self._name = name
        self._tokenizer = family.processor.tokenizer
        self._plain_text = PlainText(self._tokenizer)
        self._latest: tuple[tuple[str, ...], Any] | None = None
        self.soft_ids = {kind: self.token_id(family.soft_token(kind)) for kind in KINDS}
        self.vision_ids = {kind: self.token_id(family.token(kind)) for kind in KINDS}

    def token_id(self, token: str) -> int:
        """The id of one token.

        Raises:
            ModelError: The tokenizer does not know it.
        """
        ids = self._tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ModelError(
                f"the tokenizer of {self._name!r} does not know {token}, which its family "
                f"{self._family.model_type!r} has; use the tokenizer that belongs to the model."
            )
        return int(ids[0])

    def write(
        self,
        text: str,
        vision: VisionFeatures,
        *,
        soft_tokens: int = 0,
        placement: Placement = "before_vision",
    ) -> str:
        """Write the chat of one user turn, vision first and then ``text``, up to where the answer begins.

        Special tokens in ``text`` are written as text: nothing that is typed changes the chat's structure.

        Args:
            text: The user's text.
            vision: The visual tokens.
            soft_tokens: Number of placeholder tokens of a soft prompt.
            placement: Where these stand.

        Raises:
            ModelError: The chat template writes no vision.
        """
        family = self._family
        turns: list[dict[str, Any]] = []
        if family.system:
            turns.append({"role": "system", "content": [{"type": "text", "text": family.system}]})
        content = [{"type": vision.kind}, {"type": "text", "text": self._plain_text(text)}]
        turns.append({"role": "user", "content": content})
        chat: str = family.processor.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **family.template
        )
        placeholder = family.placeholder(vision.kind)
        before, found, after = chat.partition(placeholder)
        if not found:
            raise ModelError(
                f"the chat template of {self._name!r} writes no {placeholder} for a {vision.kind}; use "
                "the processor that belongs to the model."
            )
        soft = family.soft_token(vision.kind) * soft_tokens
        if placement == "start":
            return soft + before + vision.text + after
        if placement == "before_vision":
            header = before.removesuffix(family.opening)
            return header + soft + before[len(header) :] + vision.text + after
        tail = after.removeprefix(family.closing)
        return before + vision.text + after[: len(after) - len(tail)] + soft + tail

    def inputs(self, chats: Sequence[str], vision: VisionFeatures) -> dict[str, Any]:
        """Make the model's inputs for chats over ``vision``.

        All but the vision is on the host, where it can be read without waiting for the device.

        Args:
            chats: One chat a picture, or one or more over the video.
            vision: The visual tokens.

        Raises:
            ModelError: The processor writes more or fewer tokens than the vision has.
        """
        different = tuple(dict.fromkeys(chats))
        if self._latest is None or self._latest[0] != different:  # of frame passes, one after the other
            rows = self._tokenizer(
                list(different),
                add_special_tokens=False,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            )
            self._latest = different, rows
        rows = self._latest[1]
        if len(different) < len(chats):  # a frame pass asks the same of every picture
            order = [different.index(chat) for chat in chats]
            rows = {name: part[order] for name, part in rows.items()}
        ids = rows["input_ids"]
        vision = vision.expand(len(chats))
        self.check_count(ids, self.vision_ids[vision.kind], vision.tokens.shape[:2].numel())
        # Rows of one length need no mask, which keeps SDPA on its fast path.
        mask = rows["attention_mask"]
        return {
            "input_ids": ids,
            "attention_mask": None if bool(mask.all()) else mask,
            **self._family.inputs(ids, vision),
        }

    def check_count(self, ids: torch.Tensor, token: int, count: int) -> None:
        """Check that chats hold a token as often as there is something to put in its stead.

        Args:
            ids: (B, S) tokens of chats.
            token: Id of the token.
            count: How many of it there should be.

        Raises:
            ModelError: There are more or fewer.
        """
        found = int((ids == token).sum())
        if found != count:
            raise ModelError(
                f"chats of {self._name!r} hold {self._tokenizer.decode([token])} {found} times in place of "
                f"{count}; use the processor that belongs to the model."
            )

    def with_positions(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add positions, which a model would count on the device, and some releases of transformers wrongly."""
        return {**inputs, "position_ids": self._positions(inputs)}

    def _positions(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Positions (..., B, S); of chats of one text those of the first, since models count in Python, row by row."""
        ids = inputs["input_ids"]
        if len(ids) == 1 or not bool((ids == ids[:1]).all()):
            return self._family.positions(ids, inputs)
        first = {name: part[:1] if isinstance(part, torch.Tensor) else part for name, part in inputs.items()}
        positions = self._family.positions(ids[:1], first)
        return positions.expand(*positions.shape[:-2], *ids.shape)

    def vision_indices(self, ids: torch.Tensor, kind: VisionKind) -> torch.Tensor:
        """(B, L) index of each visual token in chats (B, S), in the order of the chat."""
        return (ids == self.vision_ids[kind]).nonzero()[:, 1].view(len(ids), -1)
