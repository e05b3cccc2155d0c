"""A candidate, seen alone by the LVLM: what it is, as a check on the expression that led to it (our choice)."""

from __future__ import annotations

import numpy as np

from steerseg.attributes import holds_attributes, parse_attributes
from steerseg.grounding import GroundingMaps, spread_video_map
from steerseg.lvlm.base import LVLM
from steerseg.presence import Look, Said
from steerseg.presets import Preset
from steerseg.ranking import pearson
from steerseg.reasoning import said_by
from steerseg.tracking import Propagation
from steerseg.video import Video
from steerseg.words.naming import MARGINS, crop_vision, frames_to_show


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


def look_of(
    read: Said,
    found: Said,
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
        score: Its rank score.
        on_keyframes: The candidates on the keyframes.
        index: Of the best candidate.
        maps: The grounding maps.
        temporal_merge: Frames of a slice of the video.
    """
    return Look(
        read=read,
        found=found,
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
