"""A candidate, seen alone by the LVLM: what it is, as a check on the expression that led to it (our choice)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from steerseg.grounding import GroundingMaps, spread_video_map
from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.lvlm.prefix import PrefixSlot, PrefixStore
from steerseg.presence.signals import Look, Said
from steerseg.presets import Preset
from steerseg.ranking import pearson
from steerseg.reasoning import expression_as, said_by
from steerseg.tracking import Propagation
from steerseg.video import Video
from steerseg.words.attributes import holds_attributes, parse_attributes
from steerseg.words.naming import BEGINNING, GREY, MARGINS, SIDE, crop_vision, crops_vision, frames_to_show

_ANY = "the thing"
_KEPT_BYTES = 64 << 20


def look_at(lvlm: LVLM, preset: Preset, video: Video, on_keyframes: Propagation, index: int) -> Said:
    """What the LVLM says that a candidate is, shown alone as crops of the keyframes that have a mask of it.

    Args:
        lvlm: The model.
        preset: Its question and its budget of visual tokens.
        video: The video.
        on_keyframes: The candidates on the keyframes.
        index: Of the candidate.
    """
    masks = on_keyframes.masks(index)
    shown = [k for k in range(len(masks)) if masks[k].any()]
    if not shown:
        return Said()
    chosen = frames_to_show(shown, preset)
    frames = video.frames[[on_keyframes.frames[k] for k in chosen]]
    answer = lvlm.answer(
        preset.texts.naming_question(),
        crop_vision(lvlm, preset, frames, masks[chosen], MARGINS[0]),
        max_new_tokens=preset.config.max_new_tokens,
        complete=holds_attributes,
    )
    return said_by(parse_attributes(answer.text), answer.tokens)


class Expectation:
    """What the LVLM expects to see for an expression, from the words alone: it is asked about a grey picture.

    Args:
        lvlm: The model.
        preset: Its questions and its budget of visual tokens.
    """

    def __init__(self, lvlm: LVLM, preset: Preset) -> None:
        self._lvlm = lvlm
        self._preset = preset
        self._of_any: dict[str, float] = {}

    @cached_property
    def _grey(self) -> VisionFeatures:
        frames = np.full((self._preset.keyframes, SIDE, SIDE, 3), GREY, dtype=np.uint8)
        return crops_vision(self._lvlm, self._preset, frames)

    @cached_property
    def _slot(self) -> PrefixSlot:
        """Where the part of the chats about the grey picture is kept: it is the same for all expressions."""
        return PrefixSlot(PrefixStore(_KEPT_BYTES), "grey", "video")

    def log_ratio(self, expression: str, name: str) -> float:
        """The log of the probability of a name for an expression to that for "the thing", in nats; 0 without a name."""
        if not name:
            return 0.0
        if name not in self._of_any:
            self._of_any[name] = self._log_probability(_ANY, name)
        return self._log_probability(expression, name) - self._of_any[name]

    @torch.no_grad()
    def _log_probability(self, expression: str, name: str) -> float:
        lvlm = self._lvlm
        question = self._preset.texts.reasoning_question(
            expression_as(self._preset.config.expression_form, expression)
        )
        chat = lvlm.chats.write(question, self._grey) + BEGINNING
        inputs = lvlm.chats.with_positions(lvlm.chats.inputs([chat + name], self._grey))
        length = len(lvlm.processor.tokenizer(chat + name, add_special_tokens=False)["input_ids"])
        length -= len(lvlm.processor.tokenizer(chat, add_special_tokens=False)["input_ids"])
        ids = inputs["input_ids"]
        seen = int(lvlm.chats.vision_indices(ids, self._grey.kind)[0, -1]) + 1
        hidden = lvlm.reader.read_outputs(inputs, seen, length + 1, self._slot)
        logits = lvlm.model.lm_head(hidden)[0, :-1].float().log_softmax(dim=-1)
        said = ids[0, -length:, None].to(logits.device)
        return float(logits.gather(1, said).sum())


def look_of(
    read: Said,
    found: Said,
    log_ratio: float,
    score: float,
    on_keyframes: Propagation,
    index: int,
    maps: GroundingMaps,
    temporal_merge: int,
) -> Look:
    """What presence follows from, beside the words of the expression.

    Args:
        read: What reasoning read the expression as.
        found: What the LVLM says that the best candidate is.
        log_ratio: Of its name; see :meth:`Expectation.log_ratio`.
        score: Its rank score.
        on_keyframes: The candidates on the keyframes.
        index: Of the best candidate.
        maps: The grounding maps.
        temporal_merge: Frames of a slice of the video.
    """
    return Look(
        read=read,
        found=found,
        log_ratio=log_ratio,
        score=score,
        agreement=map_agreement(maps, temporal_merge),
        predicted_iou=on_keyframes.candidates[index].predicted_iou,
        visible=float(np.mean(on_keyframes.frame_scores[index])),
    )


def map_agreement(maps: GroundingMaps, temporal_merge: int) -> float:
    """Pearson correlation in [-1, 1] of the frame map and the video map; 0 where one of them is not used."""
    if maps.frame is None or maps.video is None:
        return 0.0
    count, *grid = maps.frame.shape
    spread = spread_video_map(maps.video, count, (grid[0], grid[1]), temporal_merge)
    return float(pearson(maps.frame.flatten()[None], spread.flatten())[0])
