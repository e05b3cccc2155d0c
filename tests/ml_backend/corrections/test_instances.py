"""Which regions are one instance, what each is called, and what verdicts and texts say of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_backend.corrections.annotations import read_annotation
from ml_backend.corrections.records import Decision, Verdict
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.frame_numbers import numbers_beside_pages
from steerseg.masks import mask_area
from tests.support.annotation_samples import annotation

PAGES = {
    "frames": ["/data/upload/1/0.jpg", "/data/upload/1/1.jpg", "/data/upload/1/2.jpg"],
    "expr": "the zebra",
}
VIDEO = {"video": "/data/upload/1/clip.mp4", "fps": 12, "expr": "the zebra"}
_TEXT = '<TextArea name="expression" toName="frames" smart="true"/>'
_IMAGE = '<Image name="frames" valueList="$frames"/>'
CLASSES = f"""<View>{_TEXT}
<BrushLabels name="mask" toName="frames"><Label value="zebra"/><Label value="apple"/></BrushLabels>
<PolygonLabels name="outline" toName="frames"><Label value="zebra"/><Label value="apple"/></PolygonLabels>
{_IMAGE}</View>"""
TRACKS = """<View><TextArea name="expression" toName="video" smart="true"/>
<Labels name="class" toName="video"><Label value="zebra"/><Label value="apple"/></Labels>
<Video name="video" value="$video" frameRate="$fps"/><VideoRectangle name="box" toName="video"/></View>"""
LEFT = [(10, 20), (30, 20), (30, 60), (10, 60)]
RIGHT = [(60, 30), (85, 30), (85, 80), (60, 80)]


def polygon(
    number: str, page: int, points: list[tuple[float, float]], label: str = "zebra", **extra: Any
) -> dict[str, Any]:
    return {
        "id": number,
        "from_name": "outline",
        "to_name": "frames",
        "type": "polygonlabels",
        "item_index": page,
        "original_width": 480,
        "original_height": 270,
        "image_rotation": 0,
        "origin": "manual",
        "value": {"points": [list(point) for point in points], "closed": True, "polygonlabels": [label]},
        **extra,
    }


def moved(points: list[tuple[float, float]], x: float, y: float = 0) -> list[tuple[float, float]]:
    return [(a + x, b + y) for a, b in points]


def series(stem: str, points: list[tuple[float, float]], label: str = "zebra") -> list[dict[str, Any]]:
    return [polygon(f"{stem}-p{page}", page, points, label) for page in range(3)]


def box_track(
    number: str,
    x: float,
    frames: tuple[int, ...] = (1, 18, 35),
    count: int = 35,
    rate: float = 12,
    *,
    duration: float | None = None,
    timed: bool = False,
) -> dict[str, Any]:
    sequence = [
        {"frame": frame, "x": x, "y": 30, "width": 20, "height": 40, "rotation": 0, "enabled": True}
        | ({"time": frame / rate} if timed else {})
        for frame in frames
    ]
    duration = count / rate if duration is None else duration
    value = {"framesCount": count, "duration": duration, "sequence": sequence, "labels": ["zebra"]}
    return {"id": number, "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value}


def read(results: list[Any], config: str = CLASSES, data: Any = None) -> tuple[Decision, ...]:
    task = PAGES if data is None else data
    return read_annotation(
        annotation(results), task_data=task, label_config=config, expression=task.get("expr")
    )


def areas(decision: Decision) -> dict[int, int]:
    return {page: 0 if f.rle is None else mask_area(f.rle) for page, f in decision.frames.items()}


# --- identity


def test_two_instances_of_one_class_stay_two() -> None:
    first, second = read(series("left", LEFT) + series("right", RIGHT))
    assert (first.object, second.object) == ("zebra", "zebra #2")
    assert first.label == second.label == "zebra"
    assert areas(first).keys() == areas(second).keys() == {0, 1, 2}
    assert areas(first)[0] == 96 * 108
    # One expression cannot mean both: neither trains, and both say so.
    assert first.expression == second.expression == ""
    assert "may mean 'zebra' or another instance" in first.notes[0]


def test_two_box_tracks_of_one_class_are_two_instances() -> None:
    first, second = read([box_track("b1", 10), box_track("b2", 60)], TRACKS, VIDEO)
    assert (first.label, second.label) == ("zebra", "zebra")
    assert first.frames[0].boxes[0][0] == pytest.approx(0.1)
    assert second.frames[0].boxes[0][0] == pytest.approx(0.6)


def test_a_second_class_without_words_is_usable() -> None:
    first, second = read(series("one", LEFT) + series("two", RIGHT, "apple"))
    assert (first.label, first.expression) == ("zebra", "the zebra")
    assert (second.label, second.expression, second.problem) == ("apple", "", None)
    assert "nothing says what 'apple' is" in second.notes[0]


def test_regions_drawn_by_hand_continue_by_overlap_and_then_by_nearness() -> None:
    results = [
        polygon("a1", 0, LEFT),
        polygon("b1", 0, RIGHT),
        polygon("b2", 1, moved(RIGHT, -5)),
        polygon("a2", 1, moved(LEFT, 5)),
        polygon("a3", 2, moved(LEFT, 24)),  # no pixel of page 1, but closer than its own size
    ]
    first, second = read(results)
    assert {page: areas(first)[page] for page in (0, 1, 2)} == dict.fromkeys((0, 1, 2), 96 * 108)
    assert sorted(areas(second)) == [0, 1]


def test_a_region_far_from_every_series_is_a_new_instance() -> None:
    assert len(read([polygon("a1", 0, LEFT), polygon("a2", 1, RIGHT)])) == 2


def test_a_page_drawn_anew_belongs_to_the_series_around_it() -> None:
    around = [polygon("s-p0", 0, LEFT), polygon("s-p2", 2, LEFT), polygon("byHand", 1, moved(LEFT, 2))]
    (decision,) = read(around)
    assert sorted(decision.frames) == [0, 1, 2]


# --- parts


def test_masks_that_touch_are_two_instances() -> None:
    assert len(read([polygon("a", 0, LEFT), polygon("b", 0, moved(LEFT, 20))])) == 2


def test_a_mask_that_lies_on_another_is_a_part_of_it() -> None:
    (decision,) = read([polygon("a", 0, LEFT), polygon("b", 0, moved(LEFT, 8))])
    assert areas(decision)[0] > 96 * 108


def test_a_relation_joins_the_parts_of_one_object() -> None:
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    (decision,) = read([polygon("a", 0, LEFT), polygon("b", 0, RIGHT), relation])
    assert areas(decision)[0] == 96 * 108 + 120 * 135


def test_other_classes_are_never_joined() -> None:
    assert len(read([polygon("a", 0, LEFT), polygon("b", 0, LEFT, "apple")])) == 2


# --- verdicts and texts


THING = '<PolygonLabels name="outline" toName="frames"><Label value="zebra"/></PolygonLabels>'
PER_PAGE = f"""<View>{_TEXT}<Choices name="verdict" toName="frames" perItem="true">
<Choice value="Accept"/><Choice value="Reject"/><Choice value="Not visible"/></Choices>{THING}{_IMAGE}</View>"""
QUESTIONS = f"""<View>{_TEXT}
<Choices name="sky_visible" toName="frames"><Choice value="Yes"/><Choice value="No"/></Choices>
<Choices name="sharpness" toName="frames" perItem="true"><Choice value="Good"/><Choice value="Bad"/></Choices>
<TextArea name="caption" toName="frames" perItem="true"/>{THING}{_IMAGE}</View>"""


def answer(control: str, value: str, page: int | None = None) -> dict[str, Any]:
    result = {"id": f"{control}{page}", "from_name": control, "to_name": "frames", "type": "choices"}
    return {**result, "value": {"choices": [value]}} | ({} if page is None else {"item_index": page})


def test_a_page_that_was_rejected_decides_nothing() -> None:
    verdicts = [answer("verdict", "Accept", page) for page in (0, 1)] + [answer("verdict", "Reject", 2)]
    (decision,) = read([*series("t", LEFT), *verdicts], PER_PAGE)
    assert decision.verdict is None
    assert sorted(decision.frames) == [0, 1]
    assert decision.undecided == {2}


def test_a_page_without_the_object_is_empty_and_pages_may_all_say_the_same() -> None:
    absent = [answer("verdict", "Not visible", 1)]
    (decision,) = read([*series("t", LEFT), *absent], PER_PAGE)
    assert areas(decision)[1] == 0
    assert read([*series("t", LEFT), *(answer("verdict", "Accept", p) for p in range(3))], PER_PAGE)[
        0
    ].verdict
    rejected = [answer("verdict", "Reject", page) for page in range(3)]
    assert read([*series("t", LEFT), *rejected], PER_PAGE)[0].verdict is Verdict.REJECT


def test_answers_to_other_questions_are_neither_verdict_nor_expression() -> None:
    caption = {"id": "c", "from_name": "caption", "to_name": "frames", "type": "textarea", "item_index": 2}
    others = [answer("sky_visible", "No"), answer("sharpness", "Bad", 2)]
    others.append({**caption, "value": {"text": ["blurred, look again"]}})
    (decision,) = read([*series("t", LEFT), *others], QUESTIONS)
    assert (decision.verdict, decision.expression) == (None, "the zebra")
    assert sorted(decision.frames) == [0, 1, 2]


# --- numbering of frames


@pytest.mark.parametrize("timed", [True, False], ids=["timed", "without times"])
def test_a_track_numbered_at_another_rate_is_understood_by_its_times(timed: bool) -> None:
    track = box_track("late", 10, (1, 35, 70), count=70, rate=24, timed=timed)
    (decision,) = read([track], TRACKS, VIDEO)
    assert [index for index, frame in decision.frames.items() if frame.boxes] == [0, 17, 34]
    assert max(decision.frames) == 34
    assert "numbered at 24 frames a second, the video has 12" in decision.notes[0]


def test_times_tell_a_rate_better_than_a_count_that_is_rounded() -> None:
    track = box_track("late", 10, (1, 101, 239), count=241, rate=24, duration=10.03, timed=True)
    (decision,) = read([track], TRACKS, VIDEO)
    assert [index for index, frame in decision.frames.items() if frame.boxes] == [0, 50, 119]


def test_a_track_whose_times_and_duration_do_not_agree_keeps_its_numbers_and_says_so() -> None:
    torn = box_track("torn", 10, (1, 35, 70), count=70, rate=24, duration=9.0, timed=True)
    (decision,) = read([torn], TRACKS, VIDEO)
    assert [index for index, frame in decision.frames.items() if frame.boxes] == [0, 34, 69]
    assert decision.notes == (
        "the count, the duration and the times of the track of 'zebra' do not agree; its frames were found by "
        "their numbers",
    )


def test_beside_pages_a_track_comes_back_at_the_rate_at_which_boxes_go_out() -> None:
    """Label Studio counts 24 frames a second where the configuration names none; the task names the video's rate."""
    both = TRACKS.replace(' frameRate="$fps"', "").replace("</View>", f"{THING}{_IMAGE}</View>")
    task = {**VIDEO, **PAGES, "stride": 6}
    numbers = numbers_beside_pages(parse_controls(both).video or pytest.fail("no video"), task, 3, 6)
    at = [int(np.flatnonzero(numbers.shown == frame)[0]) + 1 for frame in (0, 6, 12)]
    (decision,) = read([box_track("b", 10, tuple(at), count=26, rate=24)], both, task)
    assert [page for page, frame in decision.frames.items() if frame.boxes] == [0, 1, 2]


def test_a_keyframe_of_frame_0_is_the_first_frame() -> None:
    (decision,) = read([box_track("b", 10, (0, 18))], TRACKS, VIDEO)
    assert [index for index, frame in decision.frames.items() if frame.boxes] == [0, 17]


def test_keyframes_beyond_the_count_are_named_and_not_read() -> None:
    (decision,) = read([box_track("b", 10, (1, 18, 60))], TRACKS, VIDEO)
    assert [index for index, frame in decision.frames.items() if frame.boxes] == [0, 17]
    assert decision.notes == ("1 keyframes of 'zebra' lie beyond the video's 35 frames",)


def test_what_is_drawn_on_other_media_is_named() -> None:
    stray = {**polygon("x", 0, LEFT), "to_name": "map"}
    (decision,) = read([*series("t", LEFT), stray])
    assert decision.notes == ("1 regions on 'map' are not read: the task shows no such media",)
