"""The teacher of words: the frozen LVLM names a corrected object that is shown alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.presets import Preset
from steerseg.words.attributes import holds_attributes, parse_attributes
from steerseg.words.learning import Lexicon

SIDE = 224
"""Side in pixels of a crop."""
MARGINS = (1.6, 2.5)
"""Sides of the crops, as multiples of the object's longer side; their answers are averaged (our choice)."""
GREY = 128
BEGINNING = '{"attributes": ["'
"""How an answer begins; a name follows."""
_LEAST = 1e-3  # names of several tokens are followed from this probability of their first ones
_KEPT = 16  # names of an object that are kept


@dataclass(frozen=True)
class Naming:
    """What an object may be called.

    Attributes:
        names: Name -> probability in [0, 1], the likeliest first; their sum is at most 1.
        kinds: Name -> more general nouns that the model said with it, the most specific first.
    """

    names: Mapping[str, float]
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def object_crops(
    frames: NDArray[np.uint8], masks: NDArray[np.bool_], margin: float, side: int = SIDE
) -> NDArray[np.uint8]:
    """Square crops around an object, on grey, so that nothing else is named.

    Args:
        frames: (N, H, W, 3) uint8.
        masks: (N, H, W) bool; each shows the object.
        margin: Side of a crop, as a multiple of the object's longer side.
        side: Side of the result in pixels.

    Returns:
        (N, side, side, 3) uint8.
    """
    crops = []
    for frame, mask in zip(frames, masks, strict=True):
        rows, columns = np.nonzero(mask)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        scale = side / (max(height, width) * margin)
        x, y = columns.min() + width / 2, rows.min() + height / 2
        move = np.array([[scale, 0, side / 2 - x * scale], [0, scale, side / 2 - y * scale]])
        alone = np.where(mask[..., None], frame, np.uint8(GREY))
        crops.append(
            cv2.warpAffine(
                alone,
                move,
                (side, side),
                flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
                borderValue=(GREY, GREY, GREY),
            )
        )
    return np.stack(crops)


def frames_to_show(shown: Sequence[int], preset: Preset) -> list[int]:
    """As many of the frames that show an object as the model sees keyframes, spread evenly; some twice where few do.

    Args:
        shown: The frames, ascending.
        preset: Names the number of keyframes.
    """
    return [shown[i] for i in np.linspace(0, len(shown) - 1, preset.keyframes).round().astype(int)]


def crop_vision(
    lvlm: LVLM, preset: Preset, frames: NDArray[np.uint8], masks: NDArray[np.bool_], margin: float
) -> VisionFeatures:
    """Visual tokens of an object's crops, as a video of its own; see :func:`object_crops`."""
    return crops_vision(lvlm, preset, object_crops(frames, masks, margin))


def crops_vision(lvlm: LVLM, preset: Preset, crops: NDArray[np.uint8]) -> VisionFeatures:
    """Visual tokens of (N, side, side, 3) uint8 crops, as a video of its own."""
    height, width = lvlm.family.sizes(
        SIDE,
        SIDE,
        video_tokens=preset.video_tokens,
        frame_tokens=preset.frame_tokens or 4 * preset.video_tokens,
    ).video
    pixels = lvlm.resize(crops, height, width)
    return lvlm.encode_vision(pixels, "video", seconds_per_slice=preset.config.seconds_per_slice or 1.0)


def name_object(
    lvlm: LVLM, preset: Preset, lexicon: Lexicon, frames: NDArray[np.uint8], masks: NDArray[np.bool_]
) -> Naming:
    """Ask the frozen model what a corrected object is, shown as crops of a video.

    Where there is a lexicon, the probabilities of its names are read; else the model answers freely.

    Args:
        lvlm: The model.
        preset: Its question and its budget of visual tokens.
        lexicon: The model's nouns.
        frames: (N, H, W, 3) uint8, frames that show the object; see :func:`frames_to_show`.
        masks: (N, H, W) bool, the object on them.
    """
    question, nouns = preset.texts.naming_question(), lexicon.names
    said: dict[str, float] = defaultdict(float)
    kinds: dict[str, tuple[str, ...]] = {}
    for margin in MARGINS:
        vision = crop_vision(lvlm, preset, frames, masks, margin)
        if nouns:
            names = choose(lvlm, question, vision, BEGINNING, nouns)
        else:
            names, kinds_of = _free_answer(lvlm, question, vision, preset.config.max_new_tokens)
            kinds |= kinds_of
        for name, probability in names.items():
            said[name] += probability / len(MARGINS)
    likeliest = sorted(said.items(), key=lambda item: (-item[1], item[0]))[:_KEPT]
    return Naming({name: round(probability, 4) for name, probability in likeliest}, kinds)


def _free_answer(
    lvlm: LVLM, question: str, vision: VisionFeatures, most_tokens: int
) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """The name that the model says, with its probability, and the kinds that it says after it."""
    answer = lvlm.answer(question, vision, max_new_tokens=most_tokens, complete=holds_attributes)
    phrases = [phrase.lower() for phrase in parse_attributes(answer.text)]
    if not phrases:
        return {}, {}
    name, *kinds = phrases
    probability = 1.0
    text = ""
    for token, of_token in answer.tokens:
        before, text = text, text + token
        start = text.lower().find(name)
        if start >= 0 and len(before) >= start + len(name):
            break
        probability *= of_token
    return {name: probability}, {name: tuple(kinds)}


@torch.no_grad()
def choose(
    lvlm: LVLM, question: str, vision: VisionFeatures, beginning: str, choices: Iterable[str]
) -> dict[str, float]:
    """The probability that an answer goes on with each of some texts.

    Args:
        lvlm: The model.
        question: The question.
        vision: What it is asked about.
        beginning: How the answer begins.
        choices: The texts. Of a text that begins another one, the probability of the longer one is taken off.

    Returns:
        Those with a probability above 0.001.
    """
    tokenizer = lvlm.processor.tokenizer
    chat = lvlm.chats.write(question, vision) + beginning
    tails = _tails(tokenizer, chat, tuple(choices))
    nodes = {tail[:end] for tail in tails.values() for end in range(1, len(tail) + 1)}
    inner = {node[:-1] for node in nodes}
    reached: dict[tuple[int, ...], float] = {(): 1.0}
    frontier: list[tuple[int, ...]] = [()]
    while frontier:
        following = _next_tokens(lvlm, chat, vision, frontier)
        grown = [node for node in nodes if node[:-1] in following]
        reached |= {node: reached[node[:-1]] * float(following[node[:-1]][node[-1]]) for node in grown}
        frontier = [node for node in grown if node in inner and reached[node] >= _LEAST]
    longer: dict[tuple[int, ...], float] = defaultdict(float)
    for node, probability in reached.items():
        longer[node[:-1]] += probability if node else 0.0
    exactly = {text: reached.get(tail, 0.0) - longer[tail] for text, tail in tails.items()}
    return {text: probability for text, probability in exactly.items() if probability >= _LEAST}


@lru_cache(maxsize=4)
def _tails(
    tokenizer: PreTrainedTokenizerBase, chat: str, texts: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """The tokens that each text adds to a chat; corrections of one preset share their chats."""
    length = len(tokenizer(chat, add_special_tokens=False)["input_ids"])
    rows = tokenizer([chat + text for text in texts], add_special_tokens=False)["input_ids"]
    return {text: tuple(row[length:]) for text, row in zip(texts, rows, strict=True)}


def _next_tokens(
    lvlm: LVLM, chat: str, vision: VisionFeatures, heads: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], torch.Tensor]:
    """Probabilities (V,) of the token after a chat that each head continues."""
    tokenizer = lvlm.processor.tokenizer
    result = {}
    for head in heads:
        inputs = lvlm.chats.inputs([chat + tokenizer.decode(head)], vision)
        inputs = lvlm.reader.on_device(lvlm.chats.with_positions(inputs))
        logits = lvlm.model(**inputs, logits_to_keep=1).logits
        result[head] = logits[0, -1].float().softmax(dim=-1).cpu()
    return result
