"""The description of a family: how vision stands in a chat, and the grid of its visual tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Resampling
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from steerseg.config import Grid
from steerseg.lvlm.vision import Timing, VisionFeatures, VisionKind


@dataclass(frozen=True)
class Sizes:
    """Pixels (height, width) at which frames are shown to the vision tower.

    Attributes:
        video: In the video pass.
        picture: In the frame passes.
    """

    video: tuple[int, int]
    picture: tuple[int, int]


@dataclass(frozen=True)
class GridRule:
    """How a video's grid follows from its size and budget; see :class:`steerseg.config.PipelineConfig`."""

    grid: Grid = "aspect"
    enlarge: bool = True

    def rows_and_columns(self, height: int, width: int, budget: int, side: int) -> tuple[int, int]:
        """The grid of the video pass, of at most ``budget`` visual tokens.

        Args:
            height: Of the frames, in pixels.
            width: Of the frames, in pixels.
            budget: Most visual tokens.
            side: Pixels of a visual token's side.
        """
        own = height * width / side**2  # as many tokens as the frame has without being resized
        if self.grid == "smart_resize":
            scale = math.sqrt(max(1.0, budget / own)) if self.enlarge else 1.0
            rows, columns = smart_resize(
                max(side, round(height * scale)),
                max(side, round(width * scale)),
                factor=side,
                min_pixels=side**2,
                max_pixels=budget * side**2,
            )
            return rows // side, columns // side
        budget = budget if self.enlarge else min(budget, max(1, math.floor(own)))
        return video_grid(height, width, budget)


OWN_RULE = GridRule()


class Family(ABC):
    """One family of models, bound to a loaded model and its processor.

    The class attributes are the description's data; methods describe the rest.

    Args:
        model: A ``*ForConditionalGeneration`` model.
        processor: Its processor. Its expansion of a picture in the chat is used as it is.

    Attributes:
        model_type: ``config.model_type`` of the Hugging Face checkpoints.
        temporal_merge: Frames of a video that become one grid slice.
        spare_token: A special token that chats never have otherwise. It is the placeholder whose embeddings the soft
            prompt replaces, so that no vocabulary is resized.
        opening: Text that the chat template writes right before the placeholder of a picture or a video.
        closing: Text that it writes right after.
        template: What the chat template is told beside the turns.
        full_precision: Names of modules that are not quantised.
        packages: What the processor needs beside transformers: names to import, and our extra that installs each.
        gpu_packages: What transformers computes by wherever it is installed, though it runs on a GPU alone: names to
            import, and to uninstall.
    """

    model_type: ClassVar[str]
    temporal_merge: ClassVar[int]
    spare_token: ClassVar[str]
    system: ClassVar[str] = ""
    opening: ClassVar[str] = ""
    closing: ClassVar[str] = ""
    template: ClassVar[Mapping[str, Any]] = {}
    full_precision: ClassVar[tuple[str, ...]]
    packages: ClassVar[Mapping[str, str]] = {}
    gpu_packages: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor

    # --- each family defines

    @abstractmethod
    def sizes(
        self, height: int, width: int, *, video_tokens: int, frame_tokens: int, rule: GridRule = OWN_RULE
    ) -> Sizes:
        """The sizes at which frames of ``height`` x ``width`` pixels are shown.

        Args:
            height: Of the video.
            width: Of the video.
            video_tokens: Most visual tokens of a slice of the video pass.
            frame_tokens: Most visual tokens of a picture in a frame pass.
            rule: How the grid follows; families whose frames have one size ignore it.
        """

    @abstractmethod
    def encode(self, pixels: torch.Tensor, kind: VisionKind, timing: Timing) -> VisionFeatures:
        """Run the vision tower over (N, 3, H, W) uint8 RGB: N frames of one video, or N separate images."""

    # --- families may redefine

    def soft_token(self, kind: VisionKind) -> str:
        """The placeholder token of the soft prompt in chats about this kind of vision."""
        return self.spare_token

    def modality(self, kind: VisionKind) -> VisionKind:
        """The kind as which the model takes this vision."""
        return kind

    def token_indices(self, vision: VisionFeatures) -> torch.Tensor:
        """Index among the L tokens of each visual token of the grid: (t * h * w,), in grid order."""
        time, height, width = vision.grid
        return torch.arange(time * height * width)

    def inputs(self, ids: torch.Tensor, vision: VisionFeatures) -> dict[str, Any]:
        """The model's inputs beside ``input_ids`` (B, S) and the mask; ``vision`` has B rows."""
        output = BaseModelOutputWithPooling(pooler_output=vision.tokens)
        return {"mm_encoder_outputs": {self.modality(vision.kind): output}}

    def positions(self, ids: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Positions (..., B, S) of chats as the text model takes them; ``inputs`` as above, with ids and mask."""
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)

    # --- the processor decides

    @property
    def filter(self) -> Resampling:
        """By which its processor resizes frames."""
        return Resampling(self.processor.image_processor.resample)

    @property
    def processes_on_gpu(self) -> bool:
        """Whether its processor works where the pixels are, and gives the same there.

        torchvision has Lanczos' filter on a CPU alone; transformers takes a bicubic one in its place on a GPU.
        """
        own = isinstance(self.processor.image_processor, TorchvisionBackend)
        return own and self.filter != Resampling.LANCZOS

    def resize(self, pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(K, 3, H, W) uint8 on the host -> (K, 3, height, width) uint8, by its processor."""
        processor = self.processor.image_processor
        size = SizeDict(height=height, width=width)
        resized: torch.Tensor = processor.resize(pixels, size, resample=processor.resample)
        return resized

    def placeholder(self, kind: VisionKind) -> str:
        """Text that the chat template writes for a picture or a video; the processor expands it."""
        return str(self.processor.video_token if kind == "video" else self.processor.image_token)

    def token(self, kind: VisionKind) -> str:
        """The token that stands for each visual token once the chat is expanded."""
        return self.placeholder(self.modality(kind))

    def expansion(self, kind: VisionKind, processed: Mapping[str, Any]) -> str:
        """Text that the processor puts into the chat for the first video or picture that it processed."""
        if kind == "video":
            return str(self.processor.replace_video_token(processed, video_idx=0))
        return str(self.processor.replace_image_token(processed, image_idx=0))

    def pixels(self, values: torch.Tensor) -> torch.Tensor:
        """Preprocessed pixels as the vision tower takes them."""
        return values.to(self.model.device, self.model.dtype)


class TiledFamily(Family):
    """A family whose pictures are square tiles, one after the other; the model knows pictures only."""

    @property
    @abstractmethod
    def _tile(self) -> tuple[int, int]:
        """Side of a tile in pixels and in tokens."""

    def modality(self, kind: VisionKind) -> VisionKind:
        """Always an image."""
        return "image"

    def token_indices(self, vision: VisionFeatures) -> torch.Tensor:
        """Tokens come tile by tile, the grid row by row over all tiles."""
        if vision.kind == "video":
            return super().token_indices(vision)
        _, rows, columns = vision.grid
        side = self._tile[1]
        tiles = torch.arange(rows * columns).view(rows // side, columns // side, side, side)
        return tiles.permute(0, 2, 1, 3).flatten()


def video_grid(height: int, width: int, budget: int) -> tuple[int, int]:
    """Rows and columns of the video pass's grid: at most ``budget`` visual tokens, in the frame's aspect ratio."""
    rows = max(1, math.floor(math.sqrt(budget * height / width)))
    columns = max(1, math.floor(math.sqrt(budget * width / height)))
    return rows, columns
