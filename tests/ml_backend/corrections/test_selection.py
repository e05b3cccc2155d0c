"""Which annotation of a task counts, and which corrections teach."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ml_backend.corrections.event_reader import content_digest
from ml_backend.corrections.records import Verdict
from ml_backend.corrections.selection import AnnotationStanding, choose_annotations
from tests.support.annotation_samples import annotation, mask_regions, square


def standing(number: int, minute: int, **fields: Any) -> AnnotationStanding:
    values: dict[str, Any] = {
        "ground_truth": False,
        "content": f"content {number}",
        "verdicts": [None],
        "reasons": [],
    }
    time = datetime(2026, 11, 22, 15, minute, tzinfo=UTC)
    return AnnotationStanding(number, 5, time, **(values | fields))


def test_the_newest_usable_annotation_counts() -> None:
    chosen = choose_annotations([standing(1, 0), standing(2, 1)])[5]
    assert (chosen.annotation_id, chosen.notes) == (2, ())


def test_the_star_comes_before_what_is_newer() -> None:
    assert choose_annotations([standing(1, 0, ground_truth=True), standing(2, 1)])[5].annotation_id == 1


def test_an_unusable_newest_one_is_named() -> None:
    broken = standing(2, 1, verdicts=[], reasons=["region 'x' cannot be read"])
    chosen = choose_annotations([standing(1, 0), broken])[5]
    assert chosen.annotation_id == 1
    assert chosen.notes == (
        "annotation 2 is newer, but region 'x' cannot be read; annotation 1 stands in its place",
    )
    assert choose_annotations([broken])[5].annotation_id is None
    rejecting = standing(3, 2, verdicts=[Verdict.REJECT])
    assert "it rejects the masks" in choose_annotations([standing(1, 0), rejecting])[5].notes[0]


def test_a_copy_counts_as_what_was_copied() -> None:
    first, newer = standing(1, 0), standing(2, 1)
    copy = standing(3, 2, content="content 1")
    assert choose_annotations([first, newer, copy])[5].annotation_id == 2
    starred = standing(3, 2, content="content 1", ground_truth=True)
    assert choose_annotations([first, newer, starred])[5].annotation_id == 1


def test_a_copy_shows_the_same_under_other_ids() -> None:
    regions = mask_regions({0: square(2)}, proposed=False)
    copied = [{**region, "id": "aB3dE", "origin": "prediction"} for region in regions]
    assert content_digest(annotation(regions)) == content_digest(annotation(copied))
    assert content_digest(annotation(regions)) != content_digest(
        annotation(mask_regions({0: square(3)}, proposed=False))
    )
