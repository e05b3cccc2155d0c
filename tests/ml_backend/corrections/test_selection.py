"""Which annotations repeat others, and which corrections teach."""

from __future__ import annotations

from typing import Any

from ml_backend.corrections.event_reader import content_digest
from ml_backend.corrections.records import Correction
from ml_backend.corrections.selection import ShownAnnotation, originals, teaching
from tests.support.annotation_samples import annotation, mask_regions, square
from tests.support.corrections import bare_correction


def correction(number: int, **fields: Any) -> Correction:
    """The only instance of annotation ``number`` of task 5."""
    return bare_correction(number, **({"content": f"content {number}"} | fields))


def test_the_oldest_of_what_shows_the_same_stands_for_all() -> None:
    shown = [ShownAnnotation(number, 5, False, content) for number, content in ((3, "a"), (2, "b"), (1, "a"))]
    assert originals(shown) == {1: 1, 2: 2, 3: 1}
    assert originals([*shown, ShownAnnotation(4, 5, True, "a")]) == {1: 4, 2: 2, 3: 4, 4: 4}
    assert originals([*shown, ShownAnnotation(4, 5, True, "a", usable=False)])[4] == 1


def test_other_tasks_and_unknown_contents_are_no_copies() -> None:
    assert originals([ShownAnnotation(1, 5, False, "a"), ShownAnnotation(2, 6, False, "a")]) == {1: 1, 2: 2}
    assert originals([ShownAnnotation(1, 5, False, ""), ShownAnnotation(2, 5, False, "")]) == {1: 1, 2: 2}


def test_every_annotator_teaches_and_a_copy_does_so_once() -> None:
    copy = correction(3, content="content 1")
    kept, left_out = teaching([correction(1), correction(2), copy])
    assert [one.annotation_id for one in kept] == [1, 2]
    assert left_out == ("1 corrections left out: their annotation is an unchanged copy of another one",)


def test_the_star_teaches_alone() -> None:
    kept, left_out = teaching([correction(1), correction(2, ground_truth=True), correction(3, task_id=6)])
    assert [one.annotation_id for one in kept] == [2, 3]
    assert left_out == (
        "1 corrections left out: another annotation of their task carries the ground-truth star",
    )


def test_what_has_no_words_teaches_nothing() -> None:
    kept, left_out = teaching([correction(1), correction(2, expression="")])
    assert [one.annotation_id for one in kept] == [1]
    assert left_out == ("1 corrections left out: they have no expression of their own",)


def test_a_copy_shows_the_same_under_other_ids() -> None:
    regions = mask_regions({0: square(2)}, proposed=False)
    copied = [{**region, "id": "aB3dE", "origin": "prediction"} for region in regions]
    assert content_digest(annotation(regions)) == content_digest(annotation(copied))
    assert content_digest(annotation(regions)) != content_digest(
        annotation(mask_regions({0: square(3)}, proposed=False))
    )
