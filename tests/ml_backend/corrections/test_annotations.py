"""Annotations as decisions: every control, every verdict, and what annotators leave open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_backend.corrections.annotations import read_annotation
from ml_backend.corrections.records import Decision, Problem, Verdict
from ml_backend.corrections.tracks import MAX_FRAMES
from steerseg.errors import ConfigError
from steerseg.masks import decode_rle, iou
from tests.support.annotation_samples import (
    FRAMES_DATA,
    PAGES,
    VIDEO_CONFIG,
    VIDEO_DATA,
    annotation,
    choice,
    frames_config,
    mask_regions,
    square,
    track,
    typed,
)
from tests.support.backend import recorded


def read(
    results: list[Any], *, config: str | None = None, data: Any = None, **fields: Any
) -> tuple[Decision, ...]:
    return read_annotation(
        annotation(results, **fields),
        task_data=FRAMES_DATA if data is None else data,
        label_config=config or frames_config(),
        expression=(FRAMES_DATA if data is None else data).get("expr"),
    )


def read_video(results: list[Any], **fields: Any) -> tuple[Decision, ...]:
    return read(results, config=VIDEO_CONFIG, data=VIDEO_DATA, **fields)


# --- masks


@pytest.mark.parametrize("kind", ["brush", "bitmask", "polygon", "vector"])
def test_masks_of_every_control_become_frames(kind: str) -> None:
    masks = {0: square(2), 3: square(20), 11: square(40)}
    (decision,) = read(mask_regions(masks, kind), config=frames_config(kind))
    assert (decision.object, decision.expression, decision.side) == ("object 1", "the red ball", "frames")
    assert sorted(decision.frames) == sorted(masks)
    for page, frame in decision.frames.items():
        assert frame.rle is not None
        assert iou(decode_rle(frame.rle), masks[page]) >= 0.98
        # Outlines keep their origin when their points are dragged: nothing is known of a change.
        assert frame.changed is (False if kind in ("brush", "bitmask") else None)
    assert decision.problem is None
    assert decision.lead_time == 12.5


def test_what_was_recorded_tells_changed_pages_from_others() -> None:
    body = recorded("webhook_annotation_created_frames_brush")
    (decision,) = read_annotation(
        body["annotation"],
        task_data=body["task"]["data"],
        label_config=body["project"]["label_config"],
        expression="red ball",
    )
    assert [page for page, frame in decision.frames.items() if frame.changed] == [2, 4]
    assert all(frame.rle is not None for frame in decision.frames.values())
    assert (decision.expression, decision.proposed_expression) == ("red ball typed", "red ball")
    assert (decision.parent_prediction, decision.lead_time, decision.erased) == (4, 15.784, True)


def test_several_regions_of_a_label_are_one_object() -> None:
    regions = mask_regions({0: square(2)}) + mask_regions({0: square(30)}, proposed=False)
    (decision,) = read(regions)
    rle = decision.frames[0].rle
    assert rle is not None
    assert decode_rle(rle).sum() == 200


def test_a_page_that_was_painted_away_is_not_visible() -> None:
    regions = mask_regions({0: square(2)})
    # An annotator who erases every pixel leaves a region that is all zeros.
    from label_studio_sdk.converter.brush import mask2rle

    away = mask_regions({1: square(2)}, origin="prediction-changed")[0]
    away["value"]["rle"] = mask2rle(np.zeros((36, 64), dtype=np.uint8))
    (decision,) = read([*regions, away])
    assert decision.frames[1].rle is None
    assert decision.frames[1].changed is True


def test_only_regions_of_a_proposal_say_that_missing_ones_were_erased() -> None:
    assert read(mask_regions({0: square(2)}))[0].erased
    assert not read(mask_regions({0: square(2)}, proposed=False))[0].erased


# --- words


def test_words_that_were_never_answered_are_not_those_of_the_masks() -> None:
    """Typed without Auto-Annotation, or submitted before the answer came."""
    regions = mask_regions({0: square(2)}, expression="the noted ball")
    assert read([*regions, typed("something else")])[0].expression == "the noted ball"


@pytest.mark.parametrize("last", ["#2", "dog " * 400, "   "])
def test_the_last_words_that_can_be_used_count(last: str) -> None:
    by_hand = mask_regions({0: square(2)}, proposed=False)
    (decision,) = read([*by_hand, typed("the typed ball"), typed(last)])
    assert (decision.expression, decision.problem) == ("the typed ball", None)


def test_what_was_typed_comes_before_the_note_of_changed_masks_and_the_task() -> None:
    regions = mask_regions({0: square(2)}, expression="the noted ball")
    assert read(regions)[0].expression == "the noted ball"
    repainted = mask_regions({0: square(2)}, expression="the noted ball", origin="prediction-changed")
    assert read([*repainted, typed("  the typed   ball ")])[0].expression == "the typed ball"
    by_hand = mask_regions({0: square(2)}, proposed=False)
    assert read([*by_hand, typed("  the typed   ball ")])[0].expression == "the typed ball"
    assert read(mask_regions({0: square(2)}, proposed=False))[0].expression == "the red ball"


def test_an_annotators_own_note_is_no_expression() -> None:
    (region,) = mask_regions({0: square(2)}, proposed=False)
    (decision,) = read([{**region, "meta": {"text": ["ask Ann about this one"]}}])
    assert decision.expression == "the red ball"


def test_without_any_words_it_is_usable_and_says_what_it_is_for() -> None:
    (decision,) = read(mask_regions({0: square(2)}, proposed=False), data={"frames": FRAMES_DATA["frames"]})
    assert (decision.expression, decision.problem) == ("", None)
    assert "no refinement learns from it" in decision.notes[0]


def test_a_second_label_without_words_of_its_own_says_so() -> None:
    first, second = read(
        mask_regions({0: square(2)}) + mask_regions({0: square(30)}, proposed=False, label="object 2")
    )
    assert (first.object, first.problem, first.notes) == ("object 1", None, ())
    assert (second.object, second.expression, second.problem) == ("object 2", "", None)
    assert "'object 2'" in second.notes[0]


# --- verdicts and nothing


def test_a_rejection_is_kept_whatever_is_drawn() -> None:
    for results in ([choice("Reject")], [*mask_regions({0: square(2)}), choice("reject")]):
        (decision,) = read(results)
        assert decision.verdict is Verdict.REJECT
        assert decision.problem is None


def test_not_visible_decides_every_frame() -> None:
    (decision,) = read([*mask_regions({0: square(2)}), choice("not visible")])
    assert decision.verdict is Verdict.NOT_VISIBLE
    assert decision.absent_elsewhere
    assert decision.frames == {}


@pytest.mark.parametrize("results", [[], [choice("Accept")], [typed("the red ball")]])
def test_nothing_without_a_verdict_is_set_aside(results: list[Any]) -> None:
    (decision,) = read(results)
    assert decision.problem is not None
    assert decision.problem[0] is Problem.EMPTY
    assert "Not visible" in decision.problem[1]


def test_choices_of_other_controls_are_no_verdict() -> None:
    (decision,) = read([*mask_regions({0: square(2)}), {**choice("Reject"), "from_name": "weather"}])
    assert decision.verdict is None


def test_a_task_without_its_media_is_set_aside() -> None:
    (decision,) = read(mask_regions({0: square(2)}), data={"expr": "the red ball"})
    assert decision.problem is not None
    assert decision.problem[0] is Problem.MEDIA_GONE


# --- tracks


def test_keyframes_are_boxes_and_frames_outside_the_track_are_empty() -> None:
    (decision,) = read_video([track({2: (10, 20, 30, 40), 6: (20, 20, 30, 40)}, last_enabled=False)])
    assert decision.side == "video"
    assert {i for i, frame in decision.frames.items() if frame.boxes} == {2, 6}
    assert {i for i, frame in decision.frames.items() if not frame.boxes} == {0, 1, *range(7, PAGES)}
    assert decision.frames[2].boxes == ((0.1, 0.2, 0.3, 0.4, 0.0),)


def test_a_track_that_lasts_leaves_its_later_frames_open() -> None:
    (decision,) = read_video([track({2: (10, 20, 30, 40)})])
    assert sorted(decision.frames) == [0, 1, 2]


def test_two_tracks_are_two_instances_unless_a_relation_joins_them() -> None:
    tracks = [
        track({0: (10, 20, 30, 40)}, last_enabled=False),
        track({8: (50, 20, 30, 40)}, number="track2", last_enabled=False),
    ]
    assert [decision.object for decision in read_video(tracks)] == ["track object 1", "track object 1 #2"]
    relation = {"type": "relation", "from_id": "track1", "to_id": "track2", "direction": "right"}
    (decision,) = read_video([*tracks, relation])
    assert {i for i, frame in decision.frames.items() if frame.boxes} == {0, 8}
    assert len(decision.frames) == PAGES


def test_a_text_beside_a_track_makes_it_an_object_of_its_own() -> None:
    own = {
        "id": "track2",
        "from_name": "own",
        "to_name": "video",
        "type": "textarea",
        "value": {"text": ["the small ball"]},
    }
    first, second = read_video(
        [track({0: (10, 20, 30, 40)}), track({0: (50, 20, 30, 40)}, number="track2"), own]
    )
    assert (first.expression, second.expression) == ("the red ball", "the small ball")
    assert first.object != second.object


def test_a_recorded_track_is_read_with_its_verdict_and_its_text() -> None:
    body = recorded("webhook_annotation_created_video")
    (decision,) = read_annotation(
        body["annotation"],
        task_data=body["task"]["data"],
        label_config=body["project"]["label_config"],
        expression="the red ball",
    )
    assert decision.expression == "ball region text"
    assert decision.verdict is Verdict.ACCEPT
    assert len(decision.frames) == 50


BOTH_CONFIG = frames_config().replace(
    "</View>",
    '<Video name="video" value="$video" frameRate="$fps"/><VideoRectangle name="box" toName="video"/>'
    '<Labels name="label" toName="video"><Label value="object 1"/></Labels>'
    '<TextArea name="video_expression" toName="video"/></View>',
)
BOTH_DATA = {**FRAMES_DATA, **VIDEO_DATA, "stride": 4}


def test_a_box_around_masks_of_the_pages_is_no_second_instance() -> None:
    results = [*mask_regions({0: square(2)}), track({0: (3, 11, 16, 28)}, frames_count=48)]
    (decision,) = read(results, config=BOTH_CONFIG, data=BOTH_DATA)
    assert decision.object == "object 1"
    results = [*mask_regions({0: square(2)}), track({0: (60, 11, 16, 28)}, frames_count=48)]
    assert len(read(results, config=BOTH_CONFIG, data=BOTH_DATA)) == 2


def test_boxes_of_other_words_count_on_the_pages_next_to_their_keyframes() -> None:
    words = {**typed("the blue box", "video"), "from_name": "video_expression"}
    results = [
        *mask_regions({0: square(2)}),
        words,
        track({5: (10, 20, 30, 40), 17: (20, 20, 30, 40)}, frames_count=48, last_enabled=False),
    ]
    first, second = read(results, config=BOTH_CONFIG, data=BOTH_DATA)
    assert (first.expression, second.expression) == ("the red ball", "the blue box")
    assert second.side == "frames"
    # Frame 5 is nearest to page 1 (frame 4), where the track has not begun; frame 17 to page 4 (frame 16).
    assert {i for i, frame in second.frames.items() if frame.boxes} == {4}
    assert {0, 1, 5, 11} <= {i for i, frame in second.frames.items() if not frame.boxes}


# --- what is damaged


def test_a_malformed_region_is_named() -> None:
    (region,) = mask_regions({0: square(2)})
    region["value"]["rle"] = [1, 2, 3]
    (decision,) = read([region])
    assert decision.problem is not None
    assert decision.problem[0] is Problem.UNREADABLE
    assert region["id"] in decision.problem[1]


@pytest.mark.parametrize("closed", [False, None])
def test_an_open_vector_decides_nothing_and_says_what_to_do(closed: bool | None) -> None:
    closed_one, open_one = mask_regions({0: square(2), 3: square(20)}, "vector")
    open_one["value"]["closed"] = closed
    (decision,) = read([closed_one, open_one], config=frames_config("vector"))
    assert decision.problem is not None
    assert decision.problem[0] is Problem.UNREADABLE
    assert decision.frames == {}
    for part in (open_one["id"], "is no area: its path is open", "Close the path", "submit it again"):
        assert part in decision.problem[1]


def test_an_endless_track_is_refused_before_it_costs_memory() -> None:
    (decision,) = read_video([track({0: (10, 20, 30, 40)}, frames_count=MAX_FRAMES + 1)])
    assert decision.problem is not None
    assert str(MAX_FRAMES) in decision.problem[1]


def test_an_unusable_configuration_is_an_error() -> None:
    with pytest.raises(ConfigError):
        read([], config="<View/>")


_KEYS = st.sampled_from(
    [
        "frame",
        "enabled",
        "x",
        "y",
        "width",
        "rle",
        "points",
        "sequence",
        "labels",
        "text",
        "choices",
        "framesCount",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    ["brushlabels", "polygonlabels", "videorectangle", "choices", "labels"]
                ),
                "from_name": st.sampled_from(["mask", "box", "verdict", "own", "expression"]),
                "to_name": st.sampled_from(["frames", "video"]),
                "value": st.dictionaries(_KEYS, _JSON, max_size=4),
            },
            optional={
                "id": _JSON,
                "meta": _JSON,
                "origin": _JSON,
                "original_width": st.integers(-1, 4),
                "original_height": st.integers(-1, 4),
                "item_index": _JSON,
            },
        ),
        max_size=3,
    )
)
@settings(deadline=None, max_examples=300)
@example([{"type": "videorectangle", "to_name": "video", "value": {"labels": 5, "sequence": []}}])
@example([{"type": "labels", "to_name": "video", "value": {"labels": True}}])
@example([{"type": "choices", "from_name": "verdict", "value": {"choices": 5}}])
@example([{"type": "brushlabels", "to_name": "frames", "value": {"brushlabels": 5, "rle": []}}])
def test_whatever_comes_is_read_or_set_aside(results: list[Any]) -> None:
    assert read(results, config=BOTH_CONFIG, data=BOTH_DATA)
