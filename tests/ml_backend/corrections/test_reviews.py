"""Reviews: a returned annotation is out of use as a whole, until it is changed as a whole or accepted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from ml_backend.corrections.annotation_store import AnnotationState, AnnotationStore
from ml_backend.corrections.annotations import read_annotation
from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.records import TRIED_AGAIN, Completion, Problem
from ml_backend.corrections.reviews import ReviewStore
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import CorrectionRow
from tests.support.annotation_samples import FRAMES_DATA, HEIGHT, WIDTH, frames_config, mask_regions, square
from tests.support.databases import EACH_DATABASE

pytestmark = EACH_DATABASE

START = datetime(2026, 11, 30, tzinfo=UTC)
BOTH = {"object 1": ("usable", None), "object 2": ("usable", None)}
RETURNED = {"object 1": ("set aside", "returned"), "object 2": ("set aside", "returned")}


class Desk:
    """An annotation of two objects, and what its annotator and a reviewer do with it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._annotations = AnnotationStore(database)
        self.completions = CompletionStore(database)
        self.corrections = CorrectionStore(database)
        self.reviews = ReviewStore(database)

    def read(self, at: int = 30, *, minute: int = 0) -> None:
        """Read the annotation from Label Studio, with object 2 at this place, and try again what failed."""
        first = mask_regions({0: square(2)}, label="object 1", proposed=False)
        second = mask_regions({0: square(at)}, label="object 2", proposed=False)
        results = [*first, *({**region, "id": f"{region['id']}-2"} for region in second)]
        state = AnnotationState(
            id=7,
            project_id=1,
            task_id=5,
            updated_at=START + timedelta(minutes=minute),
            digest=f"object 2 at {at}",
            cancelled=False,
            decisions=read_annotation(
                {"id": 7, "result": results},
                task_data=FRAMES_DATA,
                label_config=frames_config(),
                expression="the cat",
            ),
        )
        self._annotations.reconcile(1, [7], [state], datetime.now(UTC))
        self.completions.retry(1, TRIED_AGAIN)

    def complete(self) -> None:
        for pending in self.completions.pending(1):
            done = Completion("media", 12, HEIGHT, WIDTH, {}, {}, None)
            assert self.completions.complete(pending, done, propagated=True)

    def number(self, instance: str) -> int:
        with self._database.reading() as session:
            return session.scalars(select(CorrectionRow.id).where(CorrectionRow.object == instance)).one()

    @property
    def standing(self) -> dict[str, tuple[str, str | None]]:
        with self._database.reading() as session:
            rows = session.scalars(select(CorrectionRow)).all()
            return {row.object: (str(row.state), row.problem) for row in rows}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    database = Database(tmp_path / "store.sqlite")
    ProjectStore(database).save(1, uid="1", label_config=frames_config(), hostname="", extra_params={})
    made = Desk(database)
    made.read()
    yield made
    database.close()


def test_what_the_annotator_left_alone_is_free_with_what_was_mended(desk: Desk) -> None:
    desk.complete()
    assert desk.standing == BOTH
    desk.reviews.give_back(7, "object 2 is loose", by="eve")
    desk.read()
    desk.complete()
    assert desk.standing == RETURNED, "it is as it was"
    desk.read(minute=1)
    assert desk.standing == RETURNED, "saving it again mends nothing"
    desk.read(35, minute=2)
    desk.complete()
    assert desk.standing == BOTH
    assert desk.reviews.of([7])[7].changed_since
    desk.reviews.give_back(7, "object 2 is still loose", by="eve")
    assert desk.standing == RETURNED


def test_what_was_returned_before_it_was_complete_waits_again(desk: Desk) -> None:
    desk.reviews.give_back(7, "object 2 is loose", by="eve")
    assert desk.completions.pending(1) == []
    desk.read(35, minute=1)
    assert len(desk.completions.pending(1)) == 2
    desk.complete()
    assert desk.standing == BOTH


@pytest.mark.parametrize("problem", TRIED_AGAIN)
def test_what_would_be_tried_again_is_returned_too(desk: Desk, problem: Problem) -> None:
    _, second = desk.completions.pending(1)
    assert desk.completions.fail(second, problem, "it was away")
    desk.complete()
    desk.reviews.give_back(7, "all wrong", by="eve")
    assert desk.standing == RETURNED
    desk.read()
    desk.complete()
    assert desk.standing == RETURNED
    desk.reviews.accept(7, by="eve")
    assert desk.standing == {"object 1": ("usable", None), "object 2": ("pending", None)}
    desk.complete()
    assert desk.standing == BOTH


def test_what_a_refinement_set_aside_is_completed_anew_after_a_review(desk: Desk) -> None:
    desk.complete()
    desk.corrections.set_aside(desk.number("object 2"), Problem.MEDIA_GONE, "the server says 404")
    desk.reviews.give_back(7, "all wrong", by="eve")
    desk.reviews.give_back(7, "really", by="eve")
    assert desk.standing == RETURNED
    desk.reviews.accept(7, by="eve")
    assert desk.standing == {"object 1": ("usable", None), "object 2": ("pending", None)}


def test_what_else_is_wrong_with_a_returned_annotation_is_still_said(desk: Desk) -> None:
    desk.complete()
    desk.corrections.set_aside(desk.number("object 2"), Problem.WRONG_SIZE, "36 × 64 in place of 72 × 128")
    desk.reviews.give_back(7, "all wrong", by="eve")
    assert desk.standing["object 2"] == ("set aside", "wrong size")
    desk.read(35, minute=1)
    desk.complete()
    assert desk.standing == BOTH


def test_a_refinement_that_goes_on_leaves_a_return_as_it_is(desk: Desk) -> None:
    desk.complete()
    desk.reviews.give_back(7, "all wrong", by="eve")
    desk.corrections.set_aside(desk.number("object 1"), Problem.MEDIA_GONE, "the server says 404")
    assert {one.reason for one in desk.corrections.list_set_aside(1)} == {"returned by eve: all wrong"}
    desk.read()
    desk.complete()
    assert desk.standing == RETURNED
    desk.reviews.accept(7, by="eve")
    desk.corrections.set_aside(desk.number("object 1"), Problem.MEDIA_GONE, "the server says 404")
    assert desk.standing == {"object 1": ("set aside", "media gone"), "object 2": ("usable", None)}
