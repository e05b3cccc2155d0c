"""Which annotation of a task counts, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ml_backend.corrections.annotation_store import ListedAnnotation
from ml_backend.corrections.records import Correction, Verdict
from ml_backend.exporting.omissions import Omission, is_complete
from ml_backend.exporting.selection import ProjectAnnotations, Selection, UnusableInstance, select
from tests.support.corrections import bare_correction

CORRECTION = bare_correction()


class Project:
    """Annotations of task 5, each a minute newer than the one before."""

    def __init__(self) -> None:
        self.listed: list[ListedAnnotation] = []
        self.corrections: list[Correction] = []
        self.unusable: list[UnusableInstance] = []
        self.unreadable: dict[str, str] = {}

    def annotate(
        self,
        says: str,
        *,
        star: bool = False,
        skipped: bool = False,
        usable: bool = True,
        rejected: bool = False,
    ) -> int:
        number = len(self.listed) + 1
        time = datetime(2026, 11, 28, 10, number, tzinfo=UTC)
        self.listed.append(ListedAnnotation(number, 5, time, skipped, star, says))
        if usable and not skipped:
            verdict = Verdict.REJECT if rejected else None
            self.corrections.append(
                replace(CORRECTION, id=number, annotation_id=number, updated_at=time, verdict=verdict)
            )
        return number

    def set_aside(self, annotation: int, reason: str, name: str = "zebra") -> None:
        self.unusable.append(UnusableInstance(5, annotation, name, reason))

    def select(self, problem: str = "") -> Selection:
        found = ProjectAnnotations(
            tuple(self.listed), tuple(self.corrections), tuple(self.unusable), self.unreadable, problem
        )
        return select(found)


@pytest.fixture
def project() -> Project:
    return Project()


def chosen(selection: Selection) -> list[int]:
    return [one.annotation_id for one in selection.corrections]


def reasons(selection: Selection) -> dict[int | None, str]:
    return {omission.annotation_id: omission.reason for omission in selection.omissions}


def test_the_newest_counts(project: Project) -> None:
    project.annotate("a")
    project.annotate("b")
    selection = project.select()
    assert chosen(selection) == [2]
    assert reasons(selection) == {1: "annotation 2 of the same task is newer"}
    assert is_complete(selection.omissions)


def test_a_star_stands_above_what_is_newer(project: Project) -> None:
    project.annotate("a", star=True)
    project.annotate("b")
    selection = project.select()
    assert chosen(selection) == [1]
    assert reasons(selection) == {2: "annotation 1 of the same task has the ground-truth star"}
    assert is_complete(selection.omissions)


def test_an_older_one_does_not_stand_in_without_a_word(project: Project) -> None:
    project.annotate("a")
    project.set_aside(project.annotate("b", usable=False), "its media are gone")
    selection = project.select()
    assert chosen(selection) == [1]
    assert reasons(selection) == {2: "its media are gone; annotation 1 counts in its place"}
    assert not is_complete(selection.omissions)


def test_what_is_unusable_behind_the_one_that_counts_is_named_and_not_missing(project: Project) -> None:
    project.set_aside(project.annotate("a", usable=False), "its media are gone")
    project.annotate("b")
    selection = project.select()
    assert reasons(selection) == {1: "its media are gone"}
    assert is_complete(selection.omissions)


def test_a_copy_counts_once_and_a_skip_leaves_what_is_there(project: Project) -> None:
    project.annotate("a")
    project.annotate("a")
    project.annotate("c", skipped=True)
    selection = project.select()
    assert chosen(selection) == [1]
    assert reasons(selection) == {2: "it repeats annotation 1 unchanged", 3: "skipped by its annotator"}
    assert is_complete(selection.omissions)


def test_a_copy_counts_as_what_was_copied_however_new_it_is(project: Project) -> None:
    project.annotate("a")
    project.annotate("b")
    project.annotate("a")
    selection = project.select()
    assert chosen(selection) == [2]
    assert reasons(selection) == {
        1: "annotation 2 of the same task is newer",
        3: "it repeats annotation 1 unchanged",
    }
    assert is_complete(selection.omissions)


def test_a_copy_with_the_star_stands_for_what_was_copied(project: Project) -> None:
    project.annotate("a")
    project.annotate("b")
    project.annotate("a", star=True)
    selection = project.select()
    assert chosen(selection) == [3]
    assert reasons(selection) == {
        1: "it repeats annotation 3 unchanged",
        2: "annotation 3 of the same task has the ground-truth star",
    }


def test_a_copy_that_cannot_be_used_yet_gives_its_star_to_what_was_copied(project: Project) -> None:
    project.annotate("a")
    project.annotate("b")
    project.set_aside(project.annotate("a", star=True, usable=False), "it waits")
    selection = project.select()
    assert chosen(selection) == [1]
    assert is_complete(selection.omissions), "the copy says nothing of its own"


def test_what_nothing_is_known_of_is_no_copy(project: Project) -> None:
    project.annotate("")
    project.annotate("")
    selection = project.select()
    assert chosen(selection) == [2]
    assert reasons(selection) == {1: "annotation 2 of the same task is newer"}


def test_a_rejected_one_never_counts(project: Project) -> None:
    project.annotate("a", rejected=True)
    selection = project.select()
    assert (chosen(selection), reasons(selection)) == ([], {1: "rejected by its annotator"})
    assert is_complete(selection.omissions)


def test_a_copy_of_what_cannot_be_used_is_missing(project: Project) -> None:
    for _ in range(2):
        project.set_aside(project.annotate("a", usable=False), "unreadable")
    selection = project.select()
    assert [omission.annotation_id for omission in selection.omissions if not omission.expected] == [2, 1]


def test_what_was_not_read_is_missing(project: Project) -> None:
    project.annotate("a", usable=False)
    project.unreadable[str(project.annotate("b", usable=False))] = "its result is no list"
    selection = project.select()
    assert reasons(selection) == {1: "it was not read yet", 2: "its result is no list"}
    assert not is_complete(selection.omissions)


def test_an_instance_that_is_missing_is_named(project: Project) -> None:
    project.set_aside(project.annotate("a"), "nothing says what it is", "apple")
    selection = project.select()
    assert chosen(selection) == [1]
    assert selection.omissions == (Omission(5, 1, "apple", "nothing says what it is"),)


def test_instances_that_do_not_share_their_frames_are_named(project: Project) -> None:
    project.annotate("a")
    beside = replace(CORRECTION, id=9, object="track car", side="video", num_frames=30)
    project.corrections.append(beside)
    selection = project.select()
    assert [one.object for one in selection.corrections] == ["zebra"]
    (omission,) = selection.omissions
    assert (omission.instance, omission.expected) == ("track car", False)
    assert "30 frames of the video" in omission.reason


def test_a_project_that_could_not_be_read_is_incomplete(project: Project) -> None:
    project.annotate("a")
    selection = project.select("no token for its Label Studio is known")
    assert chosen(selection) == [1]
    (omission,) = selection.omissions
    assert "no token" in str(omission)
    assert not omission.expected
