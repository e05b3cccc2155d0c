"""The two learned matrices that steer attention, and the glossary that was learned beside them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from steerseg.config import Placement
from steerseg.errors import ConfigError
from steerseg.prompt_files import CARD_FILE, WEIGHTS_FILE, prompts_digest
from steerseg.runtime.artefacts import json_bytes, tensor_bytes, write_together
from steerseg.words.glossary import GLOSSARY_FILE, Glossary

if TYPE_CHECKING:  # prompts are read where no model is loaded
    from steerseg.lvlm.base import LVLM


@dataclass(frozen=True)
class SoftPrompts:
    """A pair of soft prompts, all that is ever trained, with the glossary of a prompt version.

    Attributes:
        frame: (n, d) float32, for frame passes. No rows: nothing is steered, the glossary alone takes part.
        video: (n, d) float32, for video passes.
        placement: Their position in the chat.
        card: Data, metrics and lineage of their training. JSON-ready.
        glossary: A team's own words, rewritten before the models read them (our choice).
    """

    frame: torch.Tensor
    video: torch.Tensor
    placement: Placement = "before_vision"
    card: dict[str, Any] = field(default_factory=dict)
    glossary: Glossary = field(default_factory=Glossary)

    def __post_init__(self) -> None:
        if self.frame.ndim != 2 or self.frame.shape != self.video.shape:
            raise ConfigError(
                "soft prompts are two matrices of one shape (tokens, width); got "
                f"{tuple(self.frame.shape)} for frames and {tuple(self.video.shape)} for video."
            )

    @classmethod
    def from_vocabulary(
        cls, embeddings: torch.Tensor, tokens: int, *, seed: int, placement: Placement = "before_vision"
    ) -> SoftPrompts:
        """Start from embeddings (V, d) of words drawn at random, so that the model meets nothing foreign."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(embeddings.shape[0], generator=generator)[: 2 * tokens]
        chosen = embeddings.detach().float().cpu()[rows].clone()
        return cls(frame=chosen[:tokens], video=chosen[tokens:], placement=placement)

    @classmethod
    def from_embedding(
        cls,
        embedding: torch.Tensor,
        tokens: int,
        *,
        seed: int,
        noise: float = 0.05,
        placement: Placement = "before_vision",
    ) -> SoftPrompts:
        """Start from one embedding (d,), repeated with a little noise (our choice).

        From a token without a meaning of its own, such as a line break, the model reads the picture as it did
        without prompts; random words before the picture make a small model name the wrong thing.

        Args:
            embedding: Every token starts from it.
            tokens: Length of each matrix.
            seed: Of the noise, which lets the tokens part.
            noise: Its deviation, as a share of the embedding's.
            placement: Position of the prompts in the chat.
        """
        generator = torch.Generator().manual_seed(seed)
        row = embedding.detach().float().cpu()
        spread = noise * row.std() * torch.randn(2 * tokens, len(row), generator=generator)
        rows = row + spread
        return cls(frame=rows[:tokens].clone(), video=rows[tokens:].clone(), placement=placement)

    @classmethod
    def without_rows(cls, width: int) -> SoftPrompts:
        """A pair that steers nothing, for a glossary alone.

        Args:
            width: Of the model's embeddings, d.
        """
        return cls(frame=torch.zeros(0, width), video=torch.zeros(0, width))

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all that proposals depend on: the identity of this prompt version, whose numbers never change."""
        frame, video = (matrix.detach().cpu().float().numpy() for matrix in (self.frame, self.video))
        return prompts_digest(self.placement, self.glossary, frame, video)

    def for_model(self, lvlm: LVLM) -> SoftPrompts:
        """The prompts on a model's device.

        Args:
            lvlm: The model.

        Raises:
            ConfigError: Their width is not the model's.
        """
        if len(self.frame) and self.frame.shape[1] != lvlm.hidden_size:
            raise ConfigError(
                f"the soft prompts are {self.frame.shape[1]} wide, but {lvlm.name!r} takes {lvlm.hidden_size}; use "
                "prompts that were trained for this model."
            )
        return self.to(lvlm.device)

    def averaged(self, other: SoftPrompts, share: float) -> SoftPrompts:
        """These prompts with a share of others of the same shape and placement, on the CPU.

        Args:
            other: The others.
            share: Their share in [0, 1].
        """

        def mean(own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            return torch.lerp(own.detach().cpu().float(), others.detach().cpu().float(), share)

        return replace(self, frame=mean(self.frame, other.frame), video=mean(self.video, other.video))

    def to(self, device: torch.device) -> SoftPrompts:
        """The same prompts on another device."""
        if self.frame.device == device:
            return self
        moved = replace(self, frame=self.frame.to(device), video=self.video.to(device))
        moved.__dict__["digest"] = self.digest  # which is asked for in every pass, and would wait for a GPU
        return moved

    def save(self, directory: str | Path) -> None:
        """Write ``soft_prompts.safetensors`` and ``soft_prompts.json``, and ``glossary.json`` where there is one.

        Raises:
            ArtefactError: The disk is full or not writable; what was there is as it was.
        """
        folder = Path(directory)
        card = {**self.card, "placement": self.placement, "digest": self.digest}
        files = {
            folder / WEIGHTS_FILE: tensor_bytes(
                {"frame": self.frame.detach().float(), "video": self.video.detach().float()}
            ),
            folder / CARD_FILE: json_bytes(card),
        }
        if self.glossary:
            files[folder / GLOSSARY_FILE] = self.glossary.to_bytes()
        else:
            (folder / GLOSSARY_FILE).unlink(missing_ok=True)
        write_together(files)

    @classmethod
    def load(cls, directory: str | Path) -> SoftPrompts:
        """Read what :meth:`save` wrote.

        Raises:
            ConfigError: A file is missing, damaged, or does not match its recorded digest.
        """
        folder = Path(directory)
        try:
            matrices = load_file(folder / WEIGHTS_FILE)
            card = json.loads((folder / CARD_FILE).read_text())
            prompts = cls(
                frame=matrices["frame"],
                video=matrices["video"],
                placement=card.pop("placement"),
                glossary=Glossary.load(folder),
            )
        except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
            raise ConfigError(
                f"no soft prompts could be read from {folder}: {error}. Expected {WEIGHTS_FILE} with the "
                f"matrices 'frame' and 'video', and {CARD_FILE}."
            ) from error
        if not (prompts.frame.isfinite().all() and prompts.video.isfinite().all()):
            raise ConfigError(f"the soft prompts in {folder} hold numbers that are not finite.")
        digest = card.pop("digest", None)
        if digest != prompts.digest:
            raise ConfigError(
                f"the soft prompts in {folder} have digest {prompts.digest}, but their card says {digest}: "
                "the files do not belong together. Restore both from one export."
            )
        return replace(prompts, card=card)
