"""The demo's frozen model names objects that are shown cut out; probabilities are those of whole names."""

from __future__ import annotations

import numpy as np
import pytest

from steerseg.demo.replay import SpriteReplay
from steerseg.pipeline import SteerSeg
from steerseg.presets import ReplaySpec, open_preset
from steerseg.words.naming import GREY, frames_to_show, name_object, object_crops

pytestmark = pytest.mark.usefixtures("one_thread")


def test_objects_of_known_clips_are_named() -> None:
    steerseg = SteerSeg.from_pretrained("demo", device="cpu")
    preset, replay = steerseg.preset, SpriteReplay(ReplaySpec(source="sprites"))
    clip = replay("training", 0)  # "the wheelchair"
    shown = np.flatnonzero(clip.masks.any(axis=(1, 2))).tolist()
    chosen = frames_to_show(shown, preset)
    assert len(chosen) == preset.keyframes
    frames, masks = clip.video.frames[chosen], clip.masks[chosen]
    naming = name_object(steerseg.lvlm, preset, preset.load_lexicon(), frames, masks)
    assert next(iter(naming.names)) == "wheelchair"
    assert sum(naming.names.values()) <= 1.0
    assert all(name in preset.load_lexicon().names for name in naming.names)


def test_crops_show_the_object_alone_and_in_the_middle() -> None:
    frames = np.full((1, 40, 60, 3), 250, dtype=np.uint8)
    masks = np.zeros((1, 40, 60), dtype=bool)
    masks[0, 4:14, 30:50] = True  # 10 x 20
    (crop,) = object_crops(frames, masks, margin=2.0, side=80)
    assert (crop[:18] == GREY).all()
    assert (crop[32:48, 24:56] == 250).all()
    assert (crop[:, :16] == GREY).all()


def test_a_few_frames_are_shown_twice() -> None:
    preset = open_preset("demo")
    assert set(frames_to_show([3, 7], preset)) == {3, 7}
    assert len(frames_to_show([3, 7], preset)) == preset.keyframes
