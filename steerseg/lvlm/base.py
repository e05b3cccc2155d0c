"""A frozen vision-language model: it answers, takes soft prompts, and shows its queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from steerseg.config import Placement
from steerseg.errors import ModelError
from steerseg.lvlm.families import Family, family_of
from steerseg.lvlm.tap import TAP_ATTENTION, QueryKeyTap, tapped

VisionKind = Literal["image", "video"]


@dataclass(frozen=True)
class VisionFeatures:
    """Visual tokens of one video, or of N images of one size, as the vision tower made them.

    Attributes:
        kind: ``"video"`` for one video, ``"image"`` for N separate pictures.
        tokens: (N, t * h * w, d) with N = 1 for a video.
        grid: (t, h, w) of merged visual tokens; t = 1 for images.
        patch_grid: (t, h_patches, w_patches) as the model's positions want it.
        seconds_per_slice: Seconds between two slices of a video's grid.
    """

    kind: VisionKind
    tokens: torch.Tensor
    grid: tuple[int, int, int]
    patch_grid: tuple[int, int, int]
    seconds_per_slice: float

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, part: slice) -> VisionFeatures:
        """Some of the images."""
        return VisionFeatures(
            self.kind, self.tokens[part], self.grid, self.patch_grid, self.seconds_per_slice
        )


@dataclass(frozen=True)
class Taken:
    """Queries and keys of one forward pass, with the places that matter.

    Attributes:
        tap: Queries and keys by layer.
        visual: (B, S) bool, the visual tokens, in the order of the grid.
        live: (B, S) bool, ``False`` on padding.
        response: Index of the response token: the last prompt position, where the answer begins.
    """

    tap: QueryKeyTap
    visual: torch.Tensor
    live: torch.Tensor
    response: int


class LVLM:
    """Wraps a frozen Hugging Face model and its processor. Weights never require gradients.

    Args:
        model: A loaded ``*ForConditionalGeneration`` model.
        processor: Its processor (tokenizer, image and video processor, chat template).
        name: What to call it in versions and messages.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.family: Family = family_of(model.config.model_type)
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.name = name
        self._soft_prompt: torch.Tensor | None = None
        model.set_attn_implementation({"text_config": TAP_ATTENTION, "vision_config": "sdpa"})
        tokenizer = processor.tokenizer
        unknown = [
            token
            for token in (self.family.soft_token, self.family.image_token, self.family.video_token)
            if len(tokenizer.encode(token, add_special_tokens=False)) != 1
        ]
        if unknown:
            raise ModelError(
                f"the tokenizer of {name!r} does not know {', '.join(unknown)}, which its family "
                f"{self.family.model_type!r} has; use the tokenizer that belongs to the model."
            )
        self._soft_id: int = tokenizer.convert_tokens_to_ids(self.family.soft_token)
        self._vision_ids: dict[VisionKind, int] = {
            "image": tokenizer.convert_tokens_to_ids(self.family.image_token),
            "video": tokenizer.convert_tokens_to_ids(self.family.video_token),
        }
        self.embeddings: nn.Embedding = model.get_input_embeddings()
        self.embeddings.register_forward_hook(self._place_soft_prompt)

    @classmethod
    def from_pretrained(cls, name: str, *, device: torch.device, dtype: torch.dtype) -> LVLM:
        """Load by hub id or from a folder in Hugging Face's layout.

        Raises:
            ModelError: The weights cannot be found or read, or the family is not supported.
        """
        bars = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()  # callers have a progress display of their own
        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the vision-language model {name!r} could not be loaded: {error}. Expected a hub id that "
                "this machine can reach or has cached, or a folder saved by `save_pretrained`."
            ) from error
        finally:
            if bars:
                transformers.utils.logging.enable_progress_bar()
        return cls(model.to(device), processor, name)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.embeddings.weight.dtype

    @property
    def hidden_size(self) -> int:
        """Width d of the text model's embeddings, and so of a soft prompt."""
        return self.embeddings.weight.shape[1]

    @property
    def line_break(self) -> torch.Tensor:
        """(d,) the embedding of a line break: text that says nothing."""
        ids = self.processor.tokenizer("\n", add_special_tokens=False)["input_ids"]
        return self.embeddings.weight[ids[-1]].detach()

    @property
    def num_layers(self) -> int:
        """Layers of the text model."""
        return self.model.config.get_text_config().num_hidden_layers

    @property
    def token_pixels(self) -> int:
        """Side of the square of pixels that one visual token covers."""
        vision = self.model.config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    @torch.no_grad()
    def encode_vision(
        self, pixels: torch.Tensor, kind: VisionKind, *, seconds_per_slice: float = 1.0
    ) -> VisionFeatures:
        """Run the vision tower.

        Args:
            pixels: (N, 3, H, W) uint8 RGB, H and W multiples of :attr:`token_pixels`. N frames of one video, or
                N separate images. An odd number of video frames is filled up by repeating the last.
            kind: Whether the frames are one video or separate images.
            seconds_per_slice: Seconds between two slices of a video's grid (two frames a slice).
        """
        if kind == "video":
            processed = self.processor.video_processor(
                videos=[pixels], do_resize=False, do_sample_frames=False, return_tensors="pt"
            )
            patch_grid, values = processed["video_grid_thw"], processed["pixel_values_videos"]
            encode = self.model.model.get_video_features
        else:
            processed = self.processor.image_processor(
                images=list(pixels), do_resize=False, return_tensors="pt"
            )
            patch_grid, values = processed["image_grid_thw"], processed["pixel_values"]
            encode = self.model.model.get_image_features
        patch_grid = patch_grid.to(self.device)
        output = encode(values.to(self.device, self.dtype), patch_grid, return_dict=True)
        merge = self.model.config.vision_config.spatial_merge_size
        time, height, width = patch_grid[0].tolist()
        return VisionFeatures(
            kind=kind,
            tokens=torch.stack(list(output.pooler_output)),
            grid=(time, height // merge, width // merge),
            patch_grid=(time, height, width),
            seconds_per_slice=seconds_per_slice,
        )

    def chat(
        self,
        text: str,
        vision: VisionFeatures,
        *,
        soft_tokens: int = 0,
        placement: Placement = "before_vision",
    ) -> str:
        """The chat of one user turn, vision first and then ``text``, up to where the answer begins."""
        content = [{"type": vision.kind}, {"type": "text", "text": text}]
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        family = self.family
        placeholder = family.video_token if vision.kind == "video" else family.image_token
        before, _, after = chat.partition(placeholder)
        time, height, width = vision.grid
        expanded = placeholder * (time * height * width)
        soft = family.soft_token * soft_tokens
        if placement == "start":
            return soft + before + expanded + after
        if placement == "before_vision":
            header = before.removesuffix(family.vision_start)
            return header + soft + family.vision_start + expanded + after
        tail = after.removeprefix(family.vision_end)
        return before + expanded + family.vision_end + soft + tail

    def _inputs(self, chats: Sequence[str], vision: VisionFeatures) -> dict[str, Any]:
        """Model inputs for chats over ``vision``: one chat a picture, or one chat over the video."""
        rows = self.processor.tokenizer(
            list(chats), add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        )
        ids = rows["input_ids"].to(self.device)
        types = torch.zeros_like(ids)
        types[ids == self._vision_ids["image"]] = 1
        types[ids == self._vision_ids["video"]] = 2
        # Rows of one length need no mask, which keeps SDPA on its fast path.
        mask = rows["attention_mask"]
        grids = torch.tensor([vision.patch_grid] * len(chats), device=self.device)
        tokens = vision.tokens if len(vision) == len(chats) else vision.tokens.expand(len(chats), -1, -1)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": None if bool(mask.all()) else mask.to(self.device),
            "mm_token_type_ids": types,
            f"{vision.kind}_grid_thw": grids,
            "mm_encoder_outputs": {vision.kind: BaseModelOutputWithPooling(pooler_output=tuple(tokens))},
        }
        if vision.kind == "video":
            seconds = torch.tensor([vision.seconds_per_slice] * len(chats), device=self.device)
            inputs["second_per_grid_ts"] = seconds
        return inputs

    @torch.no_grad()
    def generate(self, text: str, vision: VisionFeatures, *, max_new_tokens: int) -> str:
        """Answer ``text`` about a video, greedily. No soft prompt takes part."""
        inputs = self._inputs([self.chat(text, vision)], vision)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        prompt_length = inputs["input_ids"].shape[1]
        output = self.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, temperature=None, top_p=None, top_k=None
        )
        return self.processor.tokenizer.decode(output[0, prompt_length:], skip_special_tokens=True).strip()

    def attend(
        self,
        texts: Sequence[str],
        vision: VisionFeatures,
        *,
        layers: Sequence[int],
        soft_prompt: torch.Tensor | None = None,
        placement: Placement = "before_vision",
    ) -> Taken:
        """Read ``texts`` with the vision before them and keep the queries and keys of ``layers``.

        Gradients flow to ``soft_prompt`` where it requires them.

        Args:
            texts: One text for each image, or any number over the one video.
            vision: The visual tokens.
            layers: Text layers whose queries and keys are wanted.
            soft_prompt: (n, d); replaces the embeddings of n placeholder tokens.
            placement: Where the soft prompt stands in the chat.
        """
        count = 0 if soft_prompt is None else soft_prompt.shape[0]
        chats = [self.chat(text, vision, soft_tokens=count, placement=placement) for text in texts]
        inputs = self._inputs(chats, vision)
        self._soft_prompt = soft_prompt
        try:
            with tapped(layers) as tap:
                # The inner model: no logits over the sequence are wanted.
                self.model.model(**inputs, use_cache=False)
        finally:
            self._soft_prompt = None
        ids = inputs["input_ids"]
        mask = inputs["attention_mask"]
        return Taken(
            tap,
            visual=ids == self._vision_ids[vision.kind],
            live=torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool(),
            response=ids.shape[1] - 1,
        )

    def _place_soft_prompt(
        self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        if self._soft_prompt is None:
            return None
        places = (args[0] == self._soft_id).unsqueeze(-1)
        rows = self._soft_prompt.to(output.dtype).expand(output.shape[0], -1, -1)
        return output.masked_scatter(places, rows)
