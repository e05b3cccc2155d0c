"""Numbers of classes: the configuration's, the same in every export."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend.exporting.classes import configured_classes, expression_classes
from ml_backend.exporting.coco import coco_numbers
from ml_backend.exporting.mots import mots_numbers
from ml_backend.exporting.yolo import yolo_numbers
from steerseg.errors import ConfigError


def config(*labels: str, tag: str = "BrushLabels", more: str = "") -> str:
    """A configuration with these ``<Label>`` attributes."""
    listed = "".join(f"<Label {label}/>" for label in labels)
    return (
        f'<View><{tag} name="mask" toName="frames">{listed}</{tag}>{more}'
        '<KeyPointLabels name="click" toName="frames"><Label value="positive"/></KeyPointLabels>'
        '<Image name="frames" valueList="$frames"/></View>'
    )


MIXED = config('value="zebra"', 'value="apple"', 'value="moon" category="7"')


def test_numbers_follow_the_configurations_order_or_its_categories() -> None:
    for used in ([], ["moon"], ["apple", "zebra"]):
        table = configured_classes(MIXED, used)
        assert table.names == ("zebra", "apple", "moon"), (
            "absent classes keep their numbers, prompts have none"
        )
        assert yolo_numbers(table) == {"zebra": 0, "apple": 1, "moon": 7}
        assert coco_numbers(table) == mots_numbers(table) == {"zebra": 1, "apple": 2, "moon": 7}


def test_a_number_is_given_once() -> None:
    table = configured_classes(config('value="a"', 'value="b" category="0"', 'value="c" category="1"'), [])
    assert yolo_numbers(table) == {"a": 2, "b": 0, "c": 1}
    assert coco_numbers(table) == {"a": 2, "b": 0, "c": 1}
    assert mots_numbers(table) == {"a": 2, "b": 3, "c": 1}, "MOTS reserves 0"


def test_mots_reserves_ten() -> None:
    table = configured_classes(config(*(f'value="{letter}"' for letter in "abcdefghijkl")), [])
    assert list(mots_numbers(table).values()) == [*range(1, 10), 11, 12, 13]


def test_a_label_is_called_as_its_results_call_it() -> None:
    table = configured_classes(config('value="Apple" alias="apple"'), ["apple"])
    assert (table.names, table.strangers) == (("apple",), ())


def test_a_label_in_two_controls_is_one_class() -> None:
    more = '<PolygonLabels name="outline" toName="frames"><Label value="apple"/><Label value="sun"/></PolygonLabels>'
    table = configured_classes(config('value="zebra"', 'value="apple" category="4"', more=more), [])
    assert yolo_numbers(table) == {"zebra": 0, "apple": 4, "sun": 1}


def test_what_the_configuration_does_not_know_comes_last() -> None:
    table = configured_classes(MIXED, ["old", "ancient", "moon"])
    assert table.strangers == ("ancient", "old")
    assert yolo_numbers(table) == {"zebra": 0, "apple": 1, "moon": 7, "ancient": 2, "old": 3}


@pytest.mark.parametrize("category", ["-1", "x", "1.5", "10000", "٣"])
def test_a_category_that_is_no_number_is_refused(category: str) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        configured_classes(config(f'value="a" category="{category}"'), [])


def test_categories_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="'a' and 'b' both have"):
        configured_classes(config('value="a" category="3"', 'value="b" category="3"'), [])
    more = '<PolygonLabels name="outline" toName="frames"><Label value="a" category="2"/></PolygonLabels>'
    with pytest.raises(ConfigError, match="3 and 2"):
        configured_classes(config('value="a" category="3"', more=more), [])


def test_expressions_keep_their_numbers(tmp_path: Path) -> None:
    first = expression_classes(tmp_path, 1, ["the zebra", "the moon", "the zebra"])
    assert yolo_numbers(first) == {"the zebra": 0, "the moon": 1}
    later = expression_classes(tmp_path, 1, ["an apple", "the moon"])
    assert yolo_numbers(later) == {"the zebra": 0, "the moon": 1, "an apple": 2}
    assert yolo_numbers(expression_classes(tmp_path, 2, ["an apple"])) == {"an apple": 0}


def test_a_damaged_table_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "project-1.json").write_text('{"expressions": 3}')
    with pytest.raises(ConfigError, match="backup"):
        expression_classes(tmp_path, 1, ["an apple"])
    assert (tmp_path / "classes" / "project-1.json").read_text() == '{"expressions": 3}'
