"""Attributes out of the answers that models of several sizes and languages give."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerseg.words.attributes import MAX_ATTRIBUTES, confident_attributes, holds_attributes, parse_attributes
from steerseg.words.lenient_json import read_value


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            '{"attributes": ["dog", "grey and white", "on the left"], "reasons": "it stays"}',
            ("dog", "grey and white", "on the left"),
        ),
        ('Sure!\n```json\n{"attributes": ["cat", "small"]}\n```', ("cat", "small")),
        ('{"attributes": ["dog", "brown", "on the le', ("dog", "brown")),
        ("- a red car\n- turning left.\n", ("a red car", "turning left")),
        ("1. red\n2) small", ("red", "small")),
        ("red, small, moving left", ("red", "small", "moving left")),
        ('{"attributes": ["Dog", "dog", ""]}', ("Dog",)),
        ('{"attributes": [1, null, "red"]}', ("red",)),
        ("", ()),
        ("{}", ()),
        ('{"answer": 3}', ()),
    ],
)
def test_attributes_are_read_leniently(answer: str, expected: tuple[str, ...]) -> None:
    assert parse_attributes(answer) == expected


SAID = (
    ('{"attributes":', 1.0),
    (' ["', 1.0),
    ("high", 0.9),
    (" heel", 1.0),
    ('", "', 1.0),
    ("red", 0.8),
    ('", "', 1.0),
    ("still", 0.6),
    ('"]}', 0.1),
)


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (0.0, ("high heel", "red", "still")),
        (0.4, ("high heel", "red", "still")),  # 0.9 * 0.8 * 0.6 = 0.432
        (0.5, ("high heel", "red")),
        (0.8, ("high heel",)),
        (0.95, ()),
    ],
)
def test_attributes_count_up_to_the_first_that_the_model_is_not_sure_of(
    least: float, expected: tuple[str, ...]
) -> None:
    attributes = parse_attributes("".join(text for text, _ in SAID))
    assert confident_attributes(attributes, SAID, least) == expected


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ('{"attributes": ["dog", "a \\"good\\" one"]', True),
        ('{"attributes": []', True),
        ('{"attributes": ["dog [brown]", "lef', False),
        ('{"attributes": ["dog", ', False),
        ("red, small", False),
    ],
)
def test_a_whole_list_of_attributes_is_all_that_is_wanted(answer: str, whole: bool) -> None:
    assert holds_attributes(answer) is whole


@pytest.mark.parametrize(
    "listed",
    [
        '["a \\"good\\" dog", "left"]',
        '["dog [brown]", "left"]',
        '["caf\\u00e9 sign"]',
        "[]",
        '["dog", "left",]',
    ],
)
@pytest.mark.parametrize("before", ["", "See [1]. "])
@pytest.mark.parametrize("after", [', "reasons": "x [y] {z}"}', ', "reasons": "cut off'])
def test_an_answer_that_ends_with_its_list_says_the_same(before: str, listed: str, after: str) -> None:
    answer = f'{before}{{"attributes": {listed}{after}'
    parts = [answer[:end] for end in range(len(answer) + 1)]
    complete = [part for part in parts if holds_attributes(part)]
    assert complete
    assert {parse_attributes(part) for part in complete} == {parse_attributes(answer)}


def test_an_attribute_that_is_written_otherwise_counts_with_all_that_follows() -> None:
    said = (('{"attributes": ["high ', 0.9), (" heel", 0.9), ('", "', 1.0), ("red", 0.5), ('"]}', 1.0))
    attributes = parse_attributes("".join(text for text, _ in said))
    assert attributes == ("high heel", "red")
    assert confident_attributes(attributes, said, 0.4) == attributes
    assert confident_attributes(attributes, said, 0.5) == ()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # an object under "attributes"
        (
            '{"attributes": {"colour": "red", "position": "on the left"}, "reasons": "x"}',
            ("red", "on the left"),
        ),
        ('{"attributes": {"colour": ["red", "white"], "motion": "still"}}', ("red", "white", "still")),
        ('{"attributes": {"colour": "red", "position": "on the le', ("red",)),
        # a list of objects
        (
            '{"attributes": [{"type": "colour", "value": "red"}, {"type": "motion", "value": "turning left"}]}',
            ("red", "turning left"),
        ),
        (
            '{"attributes": [{"attribute": "red", "reason": "its door"}, {"attribute": "small"}]}',
            ("red", "small"),
        ),
        ('{"attributes": [["red"], ["small"]]}', ("red", "small")),
        # a single string
        ('{"attributes": "red, small, on the left", "reasons": "a, b"}', ("red", "small", "on the left")),
        ('{"attributes"："红色、小狗"，"reasons"："…"}', ("红色", "小狗")),
        ('Attributes: "red", "small"', ("red", "small")),
        # other quotes, or none
        ("{'attributes': ['red', \"the dog's tail\"], 'reasons': 'x'}", ("red", "the dog's tail")),
        ("{'attributes': ['the dog's tail', 'red']}", ("the dog's tail", "red")),
        ("{“attributes”: [“red”, “small”], “reasons”: “x”}", ("red", "small")),
        ("{‘attributes’: [‘red’, ‘the dog’s tail’]}", ("red", "the dog’s tail")),
        ("{「attributes」：[「红色」，「小狗」]}", ("红色", "小狗")),
        ("{attributes: [red, on the left]}", ("red", "on the left")),
        ('{"attributes": ["red" "small",, "still"', ("red", "small", "still")),
        ('{"attributes": ["a "good" dog", "red"]}', ('a "good" dog', "red")),
        ('{"attributes": ["the “A”, left", "caf\\u00e9"]}', ("the “A”, left", "café")),
        # no key of that name
        ('["red", "small"]', ("red", "small")),
        ('{"object": "dog", "colour": "brown", "reasons": "it barks"}', ("dog", "brown")),
        # bullets and headings, reasons after or before them
        ("- red\n- small\n\nReasons:\n- it is the only one\n", ("red", "small")),
        ("## Attributes\n1. **red**\n2. small\n## Reasons\n1. the only one", ("red", "small")),
        ("Attributes: red, small. Reasons: it is alone, so", ("red", "small")),
        ("Reasoning: it is the only one.\nAttributes: red, small", ("red", "small")),
        # bold markers and labels
        (
            "**Attributes:**\n- **Colour:** red\n- **Position**: on the left\n* **Red car**: the only one that is "
            "red in this video\n\n**Reasons:**\n- it stays",
            ("red", "on the left", "Red car"),
        ),
        ('{"attributes": ["colour: red", "**small**"]}', ("red", "small")),
        # boxes
        ('```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "the red car"}]\n```', ("the red car",)),
        ('[{"bbox_2d": [10, 20, 30, 40]}]', ()),
        ('[{"bbox_2d": [10, 20, 3', ()),
        # Chinese commas
        ("红色，小，在左边", ("红色", "小", "在左边")),
        ('{"attributes": ["红色"，"小狗"、"在左边"]，"reasons"："因为"}', ("红色", "小狗", "在左边")),
        ("属性：红色、小狗。原因：它在左边", ("红色", "小狗")),
        # nothing
        ('{"attributes": ["...", "..."], "reasons": "..."}', ()),
        ('{"attributes": null, "reasons": "red, small"}', ()),
        ('{"attributes": ["none", "N/A", "unknown"]}', ()),
        # words that look like refusals and are none
        ("not moving, no collar", ("not moving", "no collar")),
        ("a man who cannot walk", ("a man who cannot walk",)),
        ("unable to fly, the object is not moving", ("unable to fly", "the object is not moving")),
    ],
)
def test_answers_of_every_form_are_read(answer: str, expected: tuple[str, ...]) -> None:
    assert parse_attributes(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't see the video, so I cannot name it.",
        "I’m sorry, I can’t assist with that.",
        "Sorry, the expression is unclear, please rephrase.",
        "I cannot determine which object is meant, since the video is dark.",
        "I am unable to view videos. Please provide:\n- a description\n- the colour",
        "As an AI language model, I do not see videos.",
        "Unfortunately, nothing in the video matches.",
        "There is no dog in the video.",
        "The video does not show a dog.",
        "抱歉，我无法识别视频中的物体。",
        '{"attributes": ["I cannot see the object"], "reasons": ""}',
        '{"attributes": [], "reasons": "I\'m sorry, I cannot see it."}',
        '{"error": "I am unable to see the video"}',
    ],
)
def test_a_refusal_is_no_attribute(answer: str) -> None:
    assert parse_attributes(answer) == ()


_PHRASES = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20), max_size=6)


@settings(max_examples=200, deadline=None)
@given(phrases=_PHRASES, indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
def test_well_formed_json_is_read_as_such(phrases: list[str], indent: int | None, ascii_only: bool) -> None:
    answer = json.dumps({"attributes": phrases, "reasons": "x"}, indent=indent, ensure_ascii=ascii_only)
    assert read_value(answer, 0).value == {"attributes": phrases, "reasons": "x"}
    assert holds_attributes(answer)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab \"'“”[]{}:：,，\\\n`*-1"), max_size=60))
def test_any_text_is_read(text: str) -> None:
    for answer in (text, '{"attributes": ' + text):
        assert len(parse_attributes(answer)) <= MAX_ATTRIBUTES
        assert holds_attributes(answer) in (True, False)


@pytest.mark.parametrize(
    "repeated", ["[", '{"a": ', '{"attributes": [', '"a" ', "'", "- ", "“", "attributes: "]
)
def test_an_answer_that_repeats_itself_ends(repeated: str) -> None:
    parse_attributes(repeated * 5000)
    assert not holds_attributes('{"attributes": [' + '"a" ' * 5000)
