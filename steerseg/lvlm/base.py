"""A frozen vision-language model: it answers, takes soft prompts, and shows its queries and keys."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    DynamicCache,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.image_processing_backends import TorchvisionBackend

from steerseg.config import Placement, Quantisation
from steerseg.errors import ModelError
from steerseg.lvlm.families import Family, family_of
from steerseg.lvlm.gated_mlp import fuse_gates
from steerseg.lvlm.generation import Answer, GreedyAnswers
from steerseg.lvlm.norms import fuse_norms
from steerseg.lvlm.padding import pad_inner_widths
from steerseg.lvlm.plain_text import PlainText
from steerseg.lvlm.prefix import KeptQueries, Prefix, PrefixSize, PrefixSlot, cached
from steerseg.lvlm.prefix_reader import FILLED_TO, ReadingOn
from steerseg.lvlm.quantised import bits_of, keep_differentiable, loading_options
from steerseg.lvlm.rotations import fuse_rotations
from steerseg.lvlm.tap import TAP_ATTENTION, QueryKeyTap, tapped
from steerseg.lvlm.vision import VisionFeatures, VisionKind
from steerseg.lvlm.vision_attention import vision_attention_of
from steerseg.runtime.memory import free_bytes, to_device

_CPU_ROWS = 4
_FILLING_TOKENS = 4096
"""A GPU multiplies matrices of so many rows as fast as larger ones."""

__all__ = ["LVLM", "RolloutInputs", "VisionFeatures", "VisionKind"]


@dataclass(frozen=True)
class RolloutInputs:
    """Queries and keys of one forward pass, with the places that matter.

    Attributes:
        tap: Queries and keys by layer.
        token_indices: (B, t * h * w) index of the visual token on each place of the grid, in grid order.
        visual: (B, S) bool, those tokens. Visual tokens that lie on no place are not among them.
        live: (B, S) bool, ``False`` on padding.
        padded: Whether there may be padding.
        response: Index of the response token: the last prompt position, where the answer begins.
    """

    tap: QueryKeyTap
    token_indices: torch.Tensor
    visual: torch.Tensor
    live: torch.Tensor
    padded: bool
    response: int


def _head_width(text: Any) -> int:
    """Width of an attention head, by a text model's configuration."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


class _Enough(StoppingCriteria):
    """Ends an answer once it holds all that is wanted of it.

    Args:
        tokenizer: Of the model.
        length: Tokens of the chat before the answer.
        complete: Says so of an answer's text.
    """

    def __init__(self, tokenizer: Any, length: int, complete: Callable[[str], bool]) -> None:
        self._tokenizer, self._length, self._complete = tokenizer, length, complete

    def said(self, tokens: Sequence[int]) -> bool:
        """Whether an answer of these tokens is complete."""
        return self._complete(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """As the model's own ``generate`` asks after each token: (B,) bool."""
        ended = [self.said(row[self._length :].tolist()) for row in input_ids]
        return torch.tensor(ended, device=input_ids.device)


class LVLM:
    """Wraps a frozen Hugging Face model and its processor. Weights never require gradients.

    Args:
        model: A loaded ``*ForConditionalGeneration`` model.
        processor: Its processor (tokenizer, image and video processor, chat template).
        name: What to call it in versions and messages.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.family: Family = family_of(model.config.model_type)(model, processor)
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.name = name
        self._soft_prompt: torch.Tensor | None = None
        self._soft_id = -1
        self._tokenised: tuple[tuple[str, ...], Any] | None = None
        self._plain_text = PlainText(processor.tokenizer)
        # A product of 8-bit weights asks the device in the middle for what does not fit into 8 bits.
        captures = bits_of(model) != "8bit"
        self._answers = GreedyAnswers(model, captures=captures)
        kinds: tuple[VisionKind, ...] = ("image", "video")
        self._soft_ids = {kind: self._id_of(self.family.soft_token(kind)) for kind in kinds}
        self._vision_ids = {kind: self._id_of(self.family.token(kind)) for kind in kinds}
        self.embeddings: nn.Embedding = model.get_input_embeddings()
        filled_to = FILLED_TO if self.device.type == "cuda" else 1
        self._reading_on = ReadingOn(model.model.language_model, filled_to=filled_to)
        self._reading_on.calls.enabled = captures
        model.set_attn_implementation(
            {"text_config": TAP_ATTENTION, "vision_config": vision_attention_of(model)}
        )
        if self.device.type == "cuda":
            # cuDNN's attention makes a plan for each length of a chat, up to a second of every new expression.
            torch.backends.cuda.enable_cudnn_sdp(False)
            fuse_norms(model)
            fuse_rotations(model)
            pad_inner_widths(model)
            fuse_gates(model, self.dtype)
        self.embeddings.register_forward_hook(self._place_soft_prompt)

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: torch.device, dtype: torch.dtype, quantise: Quantisation | None = None
    ) -> LVLM:
        """Load by hub id or from a folder in Hugging Face's layout.

        Args:
            name: Hub id or folder.
            device: Where the weights go.
            dtype: Their precision.
            quantise: Bits of the text model's weights, which needs bitsandbytes; left out, weights stay as they
                are saved.

        Raises:
            ModelError: The weights cannot be found or read, the family is not supported, or bitsandbytes is missing.
        """
        bars = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()  # callers have a progress display of their own
        try:
            processor = AutoProcessor.from_pretrained(name)
            options = loading_options(name, quantise, device, dtype)
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **options)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"the vision-language model {name!r} could not be loaded: {error}. Expected a hub id that "
                "this machine can reach or has cached, or a folder saved by `save_pretrained`."
            ) from error
        finally:
            if bars:
                transformers.utils.logging.enable_progress_bar()
        if bits_of(model):
            keep_differentiable(model)
        return cls(model if "device_map" in options else model.to(device), processor, name)

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
    def capture_seconds(self) -> float:
        """What capturing steps of answers and texts after a kept prefix has taken so far."""
        return self._answers.capture_seconds + self._reading_on.calls.capture_seconds

    def _id_of(self, token: str) -> int:
        ids = self.processor.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ModelError(
                f"the tokenizer of {self.name!r} does not know {token}, which its family "
                f"{self.family.model_type!r} has; use the tokenizer that belongs to the model."
            )
        return int(ids[0])

    @torch.no_grad()
    def encode_vision(
        self, pixels: torch.Tensor, kind: VisionKind, *, seconds_per_slice: float = 1.0
    ) -> VisionFeatures:
        """Run the vision tower.

        Args:
            pixels: (N, 3, H, W) uint8 RGB, of a size that :meth:`Family.sizes` gives. N frames of one video, or N
                separate images.
            kind: Whether the frames are one video or separate images.
            seconds_per_slice: Seconds between two slices of a video's grid, each of as many frames as the family
                merges.
        """
        if isinstance(self.processor.image_processor, TorchvisionBackend):  # works where the pixels are
            pixels = pixels.to(self.device)
        return self.family.encode(pixels, kind, seconds_per_slice)

    def chat(
        self,
        text: str,
        vision: VisionFeatures,
        *,
        soft_tokens: int = 0,
        placement: Placement = "before_vision",
    ) -> str:
        """The chat of one user turn, vision first and then ``text``, up to where the answer begins.

        Special tokens in ``text`` are written as text: nothing that is typed changes the chat's structure.
        """
        content = [{"type": vision.kind}, {"type": "text", "text": self._plain_text(text)}]
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        family = self.family
        before, place, after = chat.partition(family.placeholder(vision.kind))
        if not place:
            raise ModelError(
                f"the chat template of {self.name!r} writes no {family.placeholder(vision.kind)} for a "
                f"{vision.kind}; use the processor that belongs to the model."
            )
        soft = family.soft_token(vision.kind) * soft_tokens
        if placement == "start":
            return soft + before + vision.text + after
        if placement == "before_vision":
            header = before.removesuffix(family.opening)
            return header + soft + before[len(header) :] + vision.text + after
        tail = after.removeprefix(family.closing)
        return before + vision.text + after[: len(after) - len(tail)] + soft + tail

    def _inputs(self, chats: Sequence[str], vision: VisionFeatures) -> dict[str, Any]:
        """Model inputs for chats over ``vision``: one chat a picture, or one or more over the video.

        All but the vision is on the host, where it is looked into without waiting for the device; see
        :meth:`_on_device`.
        """
        different = tuple(dict.fromkeys(chats))
        if self._tokenised is None or self._tokenised[0] != different:  # of frame passes, one after the other
            rows = self.processor.tokenizer(
                list(different),
                add_special_tokens=False,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            )
            self._tokenised = different, rows
        rows = self._tokenised[1]
        if len(different) < len(chats):  # a frame pass asks the same of every picture
            order = [different.index(chat) for chat in chats]
            rows = {name: part[order] for name, part in rows.items()}
        ids = rows["input_ids"]
        vision = vision.expand(len(chats))
        self._check_count(ids, self._vision_ids[vision.kind], vision.tokens.shape[:2].numel())
        # Rows of one length need no mask, which keeps SDPA on its fast path.
        mask = rows["attention_mask"]
        return {
            "input_ids": ids,
            "attention_mask": None if bool(mask.all()) else mask,
            **self.family.inputs(ids, vision),
        }

    def _on_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The same for the model to read. Nothing waits for the device."""
        return {
            name: to_device(part, self.device) if isinstance(part, torch.Tensor) else part
            for name, part in inputs.items()
        }

    def _check_count(self, ids: torch.Tensor, token: int, count: int) -> None:
        """Whether chats hold as many of a token as they should: what is put in its stead has no other room."""
        found = int((ids == token).sum())
        if found != count:
            raise ModelError(
                f"chats of {self.name!r} hold {self.processor.tokenizer.decode([token])} {found} times in place of "
                f"{count}; use the processor that belongs to the model."
            )

    @torch.no_grad()
    def answer(
        self,
        text: str,
        vision: VisionFeatures,
        *,
        max_new_tokens: int,
        prefix: PrefixSlot | None = None,
        own_steps: bool | None = None,
        complete: Callable[[str], bool] | None = None,
    ) -> Answer:
        """Answer ``text`` about a video, greedily. No soft prompt takes part.

        Args:
            text: The question.
            vision: The visual tokens.
            max_new_tokens: Limit of the answer.
            prefix: Where the part up to the last visual token is kept for the next question.
            own_steps: Whether tokens are made by :class:`GreedyAnswers`, which is fast on a GPU and used there, or
                by the model's own ``generate``.
            complete: Whether an answer holds all that is wanted, so that it need not go on; asked now and then.
        """
        inputs = self._inputs([self.chat(text, vision)], vision)
        ids = inputs["input_ids"]
        enough = None if complete is None else _Enough(self.processor.tokenizer, ids.shape[1], complete)
        wanted = self.device.type == "cuda" if own_steps is None else own_steps
        if wanted and self._answers.serves:
            said = self._answer(inputs, vision, max_new_tokens, prefix, enough)
            return Answer.of(
                self.processor.tokenizer, [one for one, _ in said], [chance for _, chance in said]
            )
        output = self.model.generate(
            **self._on_device({**self._placed(inputs), "attention_mask": torch.ones_like(ids)}),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            output_logits=True,
            return_dict_in_generate=True,
            stopping_criteria=StoppingCriteriaList([] if enough is None else [enough]),
        )
        tokens = output.sequences[0, ids.shape[1] :]
        chances = torch.stack([logits[0].float().softmax(dim=-1) for logits in output.logits])
        return Answer.of(
            self.processor.tokenizer, tokens.tolist(), chances.gather(1, tokens[:, None])[:, 0].tolist()
        )

    def _answer(
        self,
        inputs: Mapping[str, Any],
        vision: VisionFeatures,
        most: int,
        slot: PrefixSlot | None,
        enough: _Enough | None = None,
    ) -> list[tuple[int, float]]:
        inputs = self._placed(inputs)
        ids, positions = inputs["input_ids"], inputs["position_ids"]
        there = self._on_device(inputs)
        length = int((ids == self._vision_ids[vision.kind]).nonzero()[-1, 1]) + 1
        begun = slot and self._begun(inputs, length, (), self.num_layers - 1, None, slot)
        if begun:
            embeds = self.embeddings(there["input_ids"][:, length:])
            read, output = self._reading_on.output(begun, embeds, there["position_ids"][..., length:])
            past = list(zip(read.keys, read.values, strict=True))
        else:
            cache = DynamicCache()
            output = self.model.model(
                **there, **cached(self.model.model, cache), use_cache=True
            ).last_hidden_state
            past = [(layer.keys, layer.values) for layer in cache.layers]
        following = positions[..., -1:].amax() + 1  # all dimensions of a position go on together after text
        return self._answers.answer(
            past,
            output[:, -1],
            there["input_ids"],
            to_device(following.expand(positions[..., -1:].shape), self.device),
            most=most,
            enough=None if enough is None else enough.said,
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
        """Read ``texts`` with the vision before them and keep the queries and keys of ``layers``.

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
            text: self.chat(text, vision, soft_tokens=count, placement=placement)
            for text in dict.fromkeys(texts)
        }
        chats = [written[text] for text in texts]
        inputs = self._placed(self._inputs(chats, vision))
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if soft_prompt is not None:
            self._check_count(ids, self._soft_ids[vision.kind], count * len(chats))
        places = (ids == self._vision_ids[vision.kind]).nonzero()[:, 1].view(len(chats), -1)
        steered = torch.is_grad_enabled() and soft_prompt is not None and soft_prompt.requires_grad
        tap = None
        with self._steered(soft_prompt, vision.kind):
            if prefix is not None and mask is None and not steered:
                first = soft_prompt if placement != "after_vision" else None
                tap = self._read_on(inputs, int(places.max()) + 1, layers, first, prefix)
            if tap is None:
                with tapped(layers, last=max(layers)) as tap:
                    # The inner model: no logits over the sequence are wanted.
                    self.model.model(**self._on_device(inputs), use_cache=False)
        token_indices = places[:, self.family.token_indices(vision).cpu()]
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

    def _placed(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """With positions, which a model would count on the device, and some releases of transformers wrongly."""
        return {**inputs, "position_ids": self._positions(inputs)}

    def _positions(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Positions (..., B, S); of chats of one text those of the first, since models count in Python, row by row."""
        ids = inputs["input_ids"]
        if len(ids) == 1 or not bool((ids == ids[:1]).all()):
            return self.family.positions(ids, inputs)
        first = {name: part[:1] if isinstance(part, torch.Tensor) else part for name, part in inputs.items()}
        positions = self.family.positions(ids[:1], first)
        return positions.expand(*positions.shape[:-2], *ids.shape)

    def _read_on(
        self,
        inputs: Mapping[str, Any],
        length: int,
        layers: Sequence[int],
        soft_prompt: torch.Tensor | None,
        slot: PrefixSlot,
    ) -> QueryKeyTap | None:
        """Read chats from their ``length`` first tokens on, which are taken from ``slot`` or put there.

        Returns:
            Queries and keys over the whole chats; ``None`` where there is no room for the prefix.
        """
        begun = self._begun(inputs, length, layers, max(layers), soft_prompt, slot)
        if begun is None:
            return None
        ids, positions = inputs["input_ids"], inputs["position_ids"]
        tap = QueryKeyTap(layers)
        tap.queries = begun.queries.bring(ids.shape[1])
        embeds = self.embeddings(to_device(ids[:, begun.length :], self.device))
        read = self._reading_on.attended(
            begun, embeds, to_device(positions[..., begun.length :], self.device), layers
        )
        begun.queries.wait()
        for layer, query in read.queries.items():
            tap.queries[layer][:, :, begun.length :] = query
            tap.keys[layer], tap.scaling[layer] = read.keys[layer], read.scaling[layer]
        return tap

    def _begun(
        self,
        inputs: Mapping[str, Any],
        length: int,
        layers: Sequence[int],
        last: int,
        soft_prompt: torch.Tensor | None,
        slot: PrefixSlot,
    ) -> Prefix | None:
        """The prefix of chats up to text layer ``last``, from ``slot`` or into it; ``None`` where it has no room."""
        ids = inputs["input_ids"]
        found = slot.store.find(slot.owner, slot.part)
        if found is not None and found.begins(ids, soft_prompt):
            return found
        ids = ids[:, :length]
        text = self.model.config.get_text_config()
        head = ids.numel() * _head_width(text) * self.dtype.itemsize
        size = PrefixSize.of(
            2 * (last + 1) * text.num_key_value_heads * head,
            len(layers) * text.num_attention_heads * head,
            len(layers),
            self.device,
        )
        if not slot.store.make_room(slot.owner, slot.part, size):
            return None
        beginning = {
            **inputs,
            "input_ids": ids,
            "position_ids": inputs["position_ids"][..., :length],
            **(
                {"mm_token_type_ids": inputs["mm_token_type_ids"][:, :length]}
                if "mm_token_type_ids" in inputs
                else {}
            ),
        }
        cache = DynamicCache()
        with tapped(layers, last=last) as tap:
            self.model.model(**self._on_device(beginning), **cached(self.model.model, cache), use_cache=True)
        prefix = Prefix(
            ids,
            soft_prompt,
            tuple(layer.keys for layer in cache.layers),
            tuple(layer.values for layer in cache.layers),
            KeptQueries(tap.queries),
            size,
        )
        slot.store.keep(slot.owner, slot.part, prefix)
        return prefix

    @property
    def _text_model(self) -> Any:
        return self.model.model.language_model

    @functools.cached_property
    def _working_bytes(self) -> int:
        """A quarter of what is free when first asked for: always the same, so that passes and prefixes keep fitting."""
        return free_bytes(self.device) // 4

    def rows_at_once(self, tokens: int, layers: int) -> int:
        """How many chats of so many tokens should be read together: they fill the device, within its memory.

        Args:
            tokens: Of a chat.
            layers: Of how many text layers queries and keys are kept.
        """
        if self.device.type != "cuda":
            return _CPU_ROWS
        text = self.model.config.get_text_config()
        depth = _head_width(text)
        # Of one layer at a time some eight tensors of its width and three of its inner one.
        passing = 8 * text.hidden_size + 3 * text.intermediate_size
        kept = layers * depth * (text.num_attention_heads + text.num_key_value_heads)
        fits = self._working_bytes // (tokens * (passing + kept) * self.dtype.itemsize)
        return max(1, min(fits, -(-_FILLING_TOKENS // tokens)))

    def training_rows(self, tokens: int) -> int:
        """How many chats of so many tokens have room together in training, if text layers are recomputed."""
        if self.device.type != "cuda":
            return sys.maxsize
        text = self.model.config.get_text_config()
        # The input of every layer; of one at a time all that its backward pass needs.
        kept = (text.num_hidden_layers + 16) * text.hidden_size + 4 * text.intermediate_size
        return max(1, self._working_bytes // (tokens * kept * self.dtype.itemsize))

    def activations_fit(self, tokens: int) -> bool:
        """Whether everything that a backward pass over so many tokens needs has room on the device."""
        if self.device.type != "cuda":
            return True
        text = self.model.config.get_text_config()
        # What PyTorch keeps of a layer: some sixteen tensors of its width, and four of its inner one.
        kept = (
            (16 * text.hidden_size + 4 * text.intermediate_size)
            * text.num_hidden_layers
            * self.dtype.itemsize
        )
        return tokens * kept < 0.8 * free_bytes(self.device)

    @contextmanager
    def recomputing(self, wanted: bool = True, *, up_to: int) -> Iterator[None]:
        """Inside, text layers below ``up_to`` keep their inputs only and are computed again in the backward pass.

        That layer itself is left alone: a pass ends within it.
        """
        layers = list(self._text_model.layers)[:up_to] if wanted else []
        for layer in layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
            layer.training = True  # of itself only: nothing in it drops out
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False

    @contextmanager
    def _steered(self, soft_prompt: torch.Tensor | None, kind: VisionKind) -> Iterator[None]:
        """Inside, the embeddings of placeholder tokens are the soft prompt's."""
        self._soft_prompt, self._soft_id = soft_prompt, self._soft_ids[kind]
        try:
            yield
        finally:
            self._soft_prompt = None

    def _place_soft_prompt(
        self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        if self._soft_prompt is None:
            return None
        places = torch.eq(args[0], self._soft_id).unsqueeze(-1)  # none in what follows a prefix that has it
        rows = self._soft_prompt.to(output.dtype).expand(output.shape[0], -1, -1)
        return output.masked_scatter(places, rows)
