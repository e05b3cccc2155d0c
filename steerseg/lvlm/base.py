"""A frozen vision-language model: it answers, takes soft prompts, and shows its queries and keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch import nn
from transformers import StoppingCriteriaList

from steerseg.config import Placement, Quantisation
from steerseg.errors import ConfigError
from steerseg.lvlm.activations import ActivationMemory
from steerseg.lvlm.answer import Answer, AskedChat, CompletionCheck, Meanwhile
from steerseg.lvlm.chat_reader import ChatReader
from steerseg.lvlm.chats import ChatTokenizer
from steerseg.lvlm.families import Family, family_of
from steerseg.lvlm.generation import GreedyDecoder, Question
from steerseg.lvlm.loading import accelerate, load_model
from steerseg.lvlm.past import recurrent_layers
from steerseg.lvlm.prefix import PrefixSlot
from steerseg.lvlm.quantised import bits_of
from steerseg.lvlm.resizing import planes, resize_frames
from steerseg.lvlm.soft_prompt_hook import SoftPromptHook
from steerseg.lvlm.tap import TAP_ATTENTION, RolloutInputs
from steerseg.lvlm.vision import Timing, VisionFeatures, VisionKind
from steerseg.lvlm.vision_attention import vision_attention_of
from steerseg.runtime.memory import free_bytes, to_device

_ROOM_FOR_SEVERAL = 12 << 30  # bytes; keys of four answers of a 7B model take 2, of four videos 3

__all__ = ["LVLM", "VisionFeatures", "VisionKind"]


class LVLM:
    """Wraps a frozen Hugging Face model and its processor. Weights never require gradients.

    On a GPU the model computes by fewer kernels. For rotary positions, two functions of transformers' modelling files
    (``apply_rotary_pos_emb`` and ``apply_rotary_pos_emb_vision``) are replaced for the whole process, and so for every
    other model of the same files. ``fuse_rotations=False`` leaves them as they are. SDPA no longer chooses cuDNN's
    attention in this process either. On a CPU nothing is replaced.

    Args:
        model: A loaded ``*ForConditionalGeneration`` model.
        processor: Its processor (tokenizer, image and video processor, chat template).
        name: Its name in versions and messages.
        fuse_rotations: Whether a GPU computes rotary positions by one kernel, process-wide.

    Attributes:
        family: Describes what differs between families of models.
        embeddings: The text model's embedding layer.
        chats: Writes and tokenises chats.
        reader: Reads chats by the text model.
        decoder: Decodes answers on a GPU.
        soft_prompt_hook: Puts soft prompts in place of placeholder tokens.
        activations: Estimates how many chats the device has room for.

    Example:
        >>> from steerseg.presets import open_preset
        >>> folder = open_preset("demo").lvlm
        >>> lvlm = LVLM.from_pretrained(folder, device=torch.device("cpu"), dtype=torch.float32)
        >>> size = lvlm.family.sizes(270, 480, video_tokens=60, frame_tokens=240).video
        >>> vision = lvlm.encode_vision(torch.zeros(4, 3, *size, dtype=torch.uint8), "video")
        >>> vision.grid
        (2, 5, 10)
        >>> answer = lvlm.answer("What moves?", vision, max_new_tokens=8)
    """

    def __init__(self, model: Any, processor: Any, name: str, *, fuse_rotations: bool = True) -> None:
        self.family: Family = family_of(model.config.model_type)(model, processor)
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.name = name
        self.embeddings: nn.Embedding = model.get_input_embeddings()
        self.chats = ChatTokenizer(self.family, name)
        # A product of 8-bit weights asks the device in the middle for what does not fit into 8 bits.
        captures = bits_of(model) != "8bit"
        self.decoder = GreedyDecoder(model, captures=captures)
        self.reader = ChatReader(model, captures=captures)
        self.activations = ActivationMemory(model, self.device, self.dtype)
        model.set_attn_implementation(
            {"text_config": TAP_ATTENTION, "vision_config": vision_attention_of(model)}
        )
        if self.device.type == "cuda":
            accelerate(model, rotations=fuse_rotations)
        self.soft_prompt_hook = SoftPromptHook(self.embeddings)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        quantise: Quantisation | None = None,
        fuse_rotations: bool = True,
    ) -> LVLM:
        """Load by hub id or from a folder in Hugging Face's layout.

        Args:
            name: Hub id or folder.
            device: Where the weights go.
            dtype: Their precision.
            quantise: Bits of the text model's weights, which needs bitsandbytes; left out, weights stay as they
                are saved.
            fuse_rotations: Whether a GPU computes rotary positions by one kernel, which replaces functions of
                transformers for the whole process; see :class:`LVLM`.

        Raises:
            ModelError: The weights cannot be found or read, the family is not supported, or bitsandbytes is missing.
        """
        model, processor = load_model(name, device=device, dtype=dtype, quantise=quantise)
        return cls(model, processor, name, fuse_rotations=fuse_rotations)

    def give_memory(self, more: bool) -> None:
        """Drop buffers and captured passes; where ``more`` is needed, read fewer chats at once from now on."""
        self.decoder.forget()
        self.reader.prefix_reader.forget()
        if more:
            self.activations.halve()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.embeddings.weight.dtype

    @property
    def version(self) -> str:
        """The model's name, and how it is quantised."""
        name = Path(self.name).name if Path(self.name).is_dir() else self.name
        bits = bits_of(self.model)
        return name if bits is None else f"{name} ({bits})"

    @property
    def text_model(self) -> Any:
        """The text model: layers that take embeddings."""
        return self.model.get_decoder()

    @property
    def hidden_size(self) -> int:
        """Width d of the text model's embeddings, and so of a soft prompt."""
        return self.embeddings.weight.shape[1]

    @property
    def num_layers(self) -> int:
        """Layers of the text model."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def attending_layers(self) -> tuple[int, ...]:
        """Text layers that attend to all earlier tokens; the others of a hybrid model are recurrent."""
        recurrent = recurrent_layers(self.model.config.get_text_config())
        return tuple(layer for layer in range(self.num_layers) if layer not in recurrent)

    def rollout_layers(self, wanted: Sequence[int] | None, preset: str) -> tuple[int, ...]:
        """The text layers of the rollout.

        Args:
            wanted: Of a preset; the layers that attend in the upper half where left out (DecAF).
            preset: Its name, for messages.

        Raises:
            ConfigError: The model has no such layer, or one has no attention to roll out.
        """
        attending = self.attending_layers
        if wanted is None:
            return tuple(layer for layer in attending if layer >= self.num_layers // 2)
        if max(wanted) >= self.num_layers:
            raise ConfigError(
                f"preset {preset!r} asks for layer {max(wanted)}, but {self.name!r} has {self.num_layers} layers, "
                "counted from 0."
            )
        if recurrent := [layer for layer in wanted if layer not in attending]:
            raise ConfigError(
                f"preset {preset!r} asks for layer {recurrent[0]}, but it is a recurrent one of {self.name!r}, which "
                f"has no attention to roll out; layers that attend are {', '.join(map(str, attending))}."
            )
        return tuple(wanted)

    @property
    def line_break(self) -> torch.Tensor:
        """(d,) the embedding of a line break: text without meaning."""
        ids = self.processor.tokenizer("\n", add_special_tokens=False)["input_ids"]
        return self.embeddings.weight[ids[-1]].detach()

    @property
    def capture_seconds(self) -> float:
        """Seconds that capturing steps of answers and passes after a kept prefix has taken so far."""
        return self.decoder.capture_seconds + self.reader.prefix_reader.calls.capture_seconds

    def resize(self, frames: NDArray[np.uint8], height: int, width: int) -> torch.Tensor:
        """Bring frames to a size that :meth:`Family.sizes` gives, antialiased, by the filter of the model's processor.

        Args:
            frames: (K, H, W, 3) uint8 RGB.
            height: In pixels.
            width: In pixels.

        Returns:
            (K, 3, height, width) uint8, on the host or on the device.
        """
        if self.family.filter != Resampling.BICUBIC:
            return self.family.resize(planes(frames), height, width)
        return resize_frames(frames, height, width, self.device)

    @torch.no_grad()
    def encode_vision(
        self,
        pixels: torch.Tensor,
        kind: VisionKind,
        *,
        seconds_per_slice: float = 1.0,
        timing: Timing | None = None,
    ) -> VisionFeatures:
        """Run the vision tower.

        Args:
            pixels: (N, 3, H, W) uint8 RGB, of a size that :meth:`Family.sizes` gives. N frames of one video, or N
                separate images.
            kind: Whether the frames are one video or separate images.
            seconds_per_slice: Seconds between two slices of a video's grid, each of as many frames as the family
                merges; of frames that are spread evenly.
            timing: When the frames are, where they are not.
        """
        if self.family.processes_on_gpu:
            pixels = pixels.to(self.device)
        timing = timing or Timing.even(len(pixels), seconds_per_slice, self.family.temporal_merge)
        return self.family.encode(pixels, kind, timing)

    @torch.no_grad()
    def answer(
        self,
        text: str,
        vision: VisionFeatures,
        *,
        max_new_tokens: int,
        prefix: PrefixSlot | None = None,
        own_decoder: bool | None = None,
        complete: Callable[[str], bool] | None = None,
    ) -> Answer:
        """Answer ``text`` about a video, greedily. No soft prompt takes part.

        Args:
            text: The question.
            vision: The visual tokens.
            max_new_tokens: Limit of the answer.
            prefix: Where the part up to the last visual token is kept for the next question.
            own_decoder: Whether :class:`GreedyDecoder` decodes, which is fast on a GPU and used there where left out,
                or the model's own ``generate``.
            complete: Whether an answer of this text is complete, so that it need not go on; asked now and then.
        """
        chat = self._ask(text, vision, prefix, complete)
        own = self.device.type == "cuda" if own_decoder is None else own_decoder
        if not own or not self.decoder.supported:
            return self._generate(chat, max_new_tokens)
        (tokens,) = self.decode([chat], max_new_tokens)
        return self._answer_of(tokens)

    @property
    def answers_together(self) -> bool:
        """Whether :meth:`answer_together` is worth it: on a GPU with room for several videos and answers."""
        roomy = self.device.type == "cuda" and free_bytes(self.device) >= _ROOM_FOR_SEVERAL
        return roomy and self.decoder.supported

    def answer_together(
        self,
        questions: Sequence[tuple[str, VisionFeatures, PrefixSlot | None]],
        *,
        max_new_tokens: int,
        complete: Callable[[str], bool],
    ) -> list[Answer]:
        """Answer questions as :meth:`answer` answers each, in little more time than one takes on a GPU.

        Products of several rows may be rounded otherwise than those of one.

        Args:
            questions: Each question, the visual tokens of its video, and where the part up to the last one is kept.
            max_new_tokens: Limit of each answer.
            complete: Whether an answer of some text is complete, so that it need not go on.
        """
        chats = [self._ask(text, vision, prefix, complete) for text, vision, prefix in questions]
        return [self._answer_of(tokens) for tokens in self.decode(chats, max_new_tokens)]

    def _ask(
        self,
        text: str,
        vision: VisionFeatures,
        prefix: PrefixSlot | None,
        complete: Callable[[str], bool] | None,
    ) -> AskedChat:
        """Write a question about a video; arguments as of :meth:`answer`."""
        inputs = self.chats.inputs([self.chats.write(text, vision)], vision)
        check: CompletionCheck | None = None
        if complete is not None:
            check = CompletionCheck(self.processor.tokenizer, inputs["input_ids"].shape[1], complete)
        return AskedChat(inputs, vision, prefix, check)

    def _answer_of(self, tokens: Sequence[tuple[int, float]]) -> Answer:
        return Answer.of(
            self.processor.tokenizer,
            [token for token, _ in tokens],
            [probability for _, probability in tokens],
        )

    def decode(self, chats: Sequence[AskedChat], max_new_tokens: int) -> list[list[tuple[int, float]]]:
        """Read questions and decode the answers by :class:`GreedyDecoder`.

        Args:
            chats: The questions.
            max_new_tokens: Limit of each answer.

        Returns:
            Of each chat the tokens before the one that ends the answer, each with its probability in [0, 1].
        """
        lengths = [chat.inputs["input_ids"].shape[1] for chat in chats]
        return self.decoder.decode(map(self._read, chats), lengths, max_new_tokens=max_new_tokens)

    def _read(self, chat: AskedChat) -> Question:
        """Read a question through all layers."""
        inputs = self.chats.with_positions(chat.inputs)
        ids, positions = inputs["input_ids"], inputs["position_ids"]
        length = int(self.chats.vision_indices(ids, chat.vision.kind)[0, -1]) + 1
        past, hidden = self.reader.read_question(inputs, length, chat.prefix)
        following = positions[..., -1:].amax() + 1  # all dimensions of a position go on together after text
        return Question(
            past,
            hidden,
            to_device(ids, self.device),
            to_device(following.expand(positions[..., -1:].shape), self.device),
            chat.check.is_complete if chat.check else _never,
        )

    def _generate(self, chat: AskedChat, max_new_tokens: int) -> Answer:
        """Answer by the model's own ``generate``."""
        inputs, ids = chat.inputs, chat.inputs["input_ids"]
        output = self.model.generate(
            **self.reader.on_device(
                {**self.chats.with_positions(inputs), "attention_mask": torch.ones_like(ids)}
            ),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            output_logits=True,
            return_dict_in_generate=True,
            stopping_criteria=StoppingCriteriaList(
                [Meanwhile(self.decoder.meanwhile), *([] if chat.check is None else [chat.check])]
            ),
        )
        tokens = output.sequences[0, ids.shape[1] :]
        probabilities = torch.stack([logits[0].float().softmax(dim=-1) for logits in output.logits])
        return Answer.of(
            self.processor.tokenizer,
            tokens.tolist(),
            probabilities.gather(1, tokens[:, None])[:, 0].tolist(),
        )

    def attend(
        self,
        texts: Sequence[str],
        vision: VisionFeatures,
        *,
        layers: Sequence[int],
        soft_prompt: torch.Tensor | None = None,
        placement: Placement = "before_vision",
        prefix: PrefixSlot | None = None,
    ) -> RolloutInputs:
        """Read ``texts`` with the vision before them and record the queries and keys of ``layers``.

        Nothing above the last of these layers is computed. Gradients flow to ``soft_prompt`` where it requires them.

        Args:
            texts: One text for each image, or any number over the one video.
            vision: The visual tokens.
            layers: Text layers whose queries and keys are wanted.
            soft_prompt: (n, d); replaces the embeddings of n placeholder tokens.
            placement: Where the soft prompt stands in the chat.
            prefix: Where the part up to the last visual token is kept for the next such pass, which uses the memory
                of what this one returns. Left out, or for texts of several lengths, or with gradients, chats are
                read as a whole.
        """
        count = 0 if soft_prompt is None else soft_prompt.shape[0]
        written = {
            text: self.chats.write(text, vision, soft_tokens=count, placement=placement)
            for text in dict.fromkeys(texts)
        }
        inputs = self.chats.with_positions(self.chats.inputs([written[text] for text in texts], vision))
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        soft_id = self.chats.soft_ids[vision.kind]
        if soft_prompt is not None:
            self.chats.check_count(ids, soft_id, count * len(texts))
        vision_indices = self.chats.vision_indices(ids, vision.kind)
        trained = torch.is_grad_enabled() and soft_prompt is not None and soft_prompt.requires_grad
        tap = None
        with self.soft_prompt_hook.replacing(soft_id, soft_prompt):
            if prefix is not None and mask is None and not trained:
                first = soft_prompt if placement != "after_vision" else None
                length = int(vision_indices.max()) + 1
                tap = self.reader.continue_queries(inputs, length, layers, first, prefix)
            if tap is None:
                tap = self.reader.read_queries(inputs, layers)
        token_indices = vision_indices[:, self.family.token_indices(vision).cpu()]
        visual = torch.zeros_like(ids, dtype=torch.bool).scatter_(1, token_indices, True)
        live = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        return RolloutInputs(
            tap,
            token_indices=to_device(token_indices, self.device),
            visual=to_device(visual, self.device),
            live=to_device(live, self.device),
            padded=mask is not None,
            response=ids.shape[1] - 1,
        )


def _never(tokens: Sequence[int]) -> bool:
    """An answer that only its last token ends."""
    return False
