"""Label colours against pictures: what is hardly seen, what is chosen in its place, and how it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.label_colours import LEAST_CONTRAST, choose_colours, contrast, with_colours

CONFIG = (Path(__file__).parents[3] / "label_config/frames.xml").read_text("utf-8")
LABELS = ("object 1", "object 2", "object 3", "object 4")


def field(red: int, green: int, blue: int) -> NDArray[np.uint8]:
    return np.full((20, 30, 3), (red, green, blue), dtype=np.uint8)


def test_a_colour_is_hardly_seen_on_a_picture_of_it() -> None:
    assert contrast("#2F80ED", field(0x2F, 0x80, 0xED).reshape(-1, 3)) < 1
    assert contrast("#2F80ED", field(0xF2, 0xC9, 0x4C).reshape(-1, 3)) > 2 * LEAST_CONTRAST


@pytest.mark.parametrize("sky", [(0x40, 0x88, 0xE8), (60, 120, 60), (200, 120, 40), (250, 250, 250)])
def test_better_colours_stand_out_and_differ(sky: tuple[int, int, int]) -> None:
    choice = choose_colours(CONFIG, LABELS, [field(*sky)])
    assert len(set(choice.better)) == len(LABELS)
    assert min(choice.better_contrasts) >= min(LEAST_CONTRAST, min(choice.contrasts))
    assert choice.better_contrasts[0] >= max(choice.contrasts)


def test_the_labels_that_are_hardly_seen_are_named() -> None:
    choice = choose_colours(CONFIG, LABELS, [field(0x2F, 0x80, 0xED)])
    assert choice.present == ("#2F80ED", "#F2994A", "#27AE60", "#BB6BD9")
    assert choice.faint == ("object 1",)
    # A tenth of the pixels decides: a small patch of the colour does no harm.
    patch = np.concatenate([field(240, 240, 240)] * 19 + [field(0x2F, 0x80, 0xED)])
    assert choose_colours(CONFIG, LABELS, [patch]).faint == ()


def test_the_own_colour_of_small_objects_counts() -> None:
    meadow, ball = np.concatenate([field(60, 120, 60)] * 50), field(0x2F, 0x80, 0xED)[:2].reshape(-1, 3)
    pictures = [np.concatenate([meadow, field(0x2F, 0x80, 0xED)[:2]])]
    blind = choose_colours(CONFIG, LABELS, pictures)
    assert blind.faint == (), "the ball is less than a tenth of the picture"
    seeing = choose_colours(CONFIG, LABELS, pictures, [ball])
    assert seeing.faint == ("object 1",)
    assert min(contrast(colour, ball) for colour in seeing.better) > LEAST_CONTRAST


def test_only_the_colours_of_a_configuration_change() -> None:
    changed = with_colours(CONFIG, {"object 1": "#9BE800", "object 3": "#7A3CFF"})
    assert parse_controls(changed) == parse_controls(CONFIG)
    assert changed.count("#9BE800") == changed.count("#7A3CFF") == 1
    back = changed.replace("#9BE800", "#2F80ED").replace("#7A3CFF", "#27AE60")
    assert back == CONFIG, "comments and layout stay to the letter"


def test_labels_without_a_colour_and_with_an_alias_get_one() -> None:
    config = """<View><!-- <Label value="a"/> -->
      <BrushLabels name='m' toName='f'><Label value='a &amp; b'/><Label alias="c" value="see"
       Background='red' ></Label></BrushLabels>
      <TextArea name="expression" toName="f"/><Image name="f" valueList="$frames"/></View>"""
    changed = with_colours(config, {"a & b": "#9BE800", "c": "#1B2A8A"})
    assert """<Label value='a &amp; b' background="#9BE800"/>""" in changed
    assert """Background="#1B2A8A" ></Label>""" in changed
    assert '<!-- <Label value="a"/> -->' in changed
    assert choose_colours(changed, ("a & b", "c"), [field(9, 9, 9)]).present == ("#9BE800", "#1B2A8A")
