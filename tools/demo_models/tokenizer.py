"""The demo model's tokenizer and processor: Qwen2.5-VL's kinds, with a small vocabulary of their own.

``python -m tools.demo_models.tokenizer`` samples sentences from the demo world's language, trains a byte-level
BPE on them and a list of plain English words, and writes the preset's ``lvlm/`` folder: tokenizer, chat
template, image and video processor and the model's configuration; everything but the weights. Every byte is
in the vocabulary, so any wording can be written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steerseg.demo import prompts
from tools.demo_models.lvlm import CELL, MERGE, PATCH, PRESET_FOLDER, TEMPORAL_PATCH, demo_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLProcessor

VOCABULARY = 2560

PLAIN_WORDS = Path(__file__).with_name("words.txt")
"""The words of sentences that people write about videos; the world's language adds its own."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    # Never part of a text: the position of soft prompts, whose embeddings replace it.
    "<|quad_start|>",
    "<|quad_end|>",
    "<|spare_0|>",
    "<|spare_1|>",
    "<|spare_2|>",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Qwen2.5-VL's turns without its system message, which would only lengthen the demo's sequences."""


def corpus(scenes: int = 4000, seed: int = 1) -> Iterator[str]:
    """Prompts and answers as training will see them.

    Args:
        scenes: Number of scenes whose referrals are drawn.
        seed: Seed of the draw.
    """
    from tools.demo_models.lvlm_data import sentences

    rng = np.random.default_rng(seed)
    yield from sentences(rng, scenes)
    for word in PLAIN_WORDS.read_text(encoding="utf-8").split():
        yield f"the {word}"
        yield word
    for tens in range(0, 100):
        yield prompts.where_text("it", moment=tens % 8 + 1)


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerBase:
    """Train a tokenizer of Qwen2's kind: NFC, Qwen2's splitting, byte-level BPE, single digits.

    Args:
        texts: Texts that the vocabulary is learned from, without special tokens.
        vocabulary: Number of entries, special tokens included, at most.
    """
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    untrained = Qwen2TokenizerFast()  # brings the normaliser and the splitting
    backend = untrained.backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The names of the roles must be one token each, whatever the texts are: they begin every turn.
    backend.train_from_iterator(itertools.chain(texts, ["user\nassistant\n"] * 1000), trainer)
    model = _vocabulary_and_merges(backend.to_str())
    tokenizer = Qwen2TokenizerFast(
        vocab=model[0],
        merges=model[1],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS
            ]
        }
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _vocabulary_and_merges(serialised: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(serialised)["model"]
    special = set(SPECIAL_TOKENS)
    order = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    vocabulary = {token: number for number, token in enumerate(t for t in order if t not in special)}
    return vocabulary, [tuple(pair) for pair in model["merges"]]


def build_processor(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLProcessor:
    """A Qwen2.5-VL processor whose resizing leaves any whole number of cells as it is."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    common = {
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": MERGE,
        "size": {"shortest_edge": CELL * CELL, "longest_edge": 4096 * CELL * CELL},
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**common),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            **common, do_sample_frames=False, fps=2, cap_pixels_per_frame=False
        ),
        chat_template=CHAT_TEMPLATE,
    )


def save_preset(folder: Path, tokenizer: PreTrainedTokenizerBase, *, tiny: bool = False) -> None:
    """Write tokenizer, processor and model configuration: all of the preset's folder but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    build_processor(tokenizer).save_pretrained(folder)
    special = special_ids(tokenizer)
    config = demo_config(padded_vocabulary(len(tokenizer)), special, tiny=tiny)
    config.save_pretrained(folder)
    from transformers import GenerationConfig

    GenerationConfig(
        do_sample=False,
        eos_token_id=[special["<|im_end|>"], special["<|endoftext|>"]],
        pad_token_id=special["<|endoftext|>"],
    ).save_pretrained(folder)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens → their ids."""
    return {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}


def padded_vocabulary(entries: int, multiple: int = 64) -> int:
    """Rows of the embedding: the tokenizer's entries, rounded up so that matrix products run fast."""
    return -(-entries // multiple) * multiple


def words_of(texts: Iterable[str]) -> set[str]:
    """All words (runs of letters) that occur in texts, in lower case."""
    return {word.lower() for text in texts for word in re.findall(r"[^\W\d_]+", text)}


def main() -> None:
    """Train the tokenizer as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=PRESET_FOLDER)
    parser.add_argument("--scenes", type=int, default=4000)
    options = parser.parse_args()
    tokenizer = train_tokenizer(corpus(options.scenes))
    save_preset(options.folder, tokenizer)
    print(f"{len(tokenizer)} entries, written to {options.folder}")


if __name__ == "__main__":
    main()
