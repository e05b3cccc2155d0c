"""Decisions become usable corrections, or are set aside with a reason, with a real worker process behind them."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.corrections.comparison import choose_proposal
from ml_backend.corrections.records import Completion, Evidence, Problem, Verdict, Weights
from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.database.tables import JobState, ProposalKey
from ml_backend.exporting.labelled import Provenance, sequences
from ml_backend.jobs.proposal_store import KnownProposal
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.frame_numbers import FrameNumbers
from ml_backend.label_studio.media_access import MediaTimeoutError, MediaUnavailableError
from ml_backend.label_studio.regions import tracklet_to_video_region
from ml_backend.models.executor import ModelExecutor
from steerseg.errors import ConfigError
from steerseg.masks import decode_rle, mask_area
from steerseg.video.player import PlayerTimeline
from tests.support.annotation_samples import (
    HEIGHT,
    PAGES,
    VIDEO_CONFIG,
    WIDTH,
    annotation,
    choice,
    event_body,
    frames_config,
    mask_regions,
    square,
    track,
)
from tests.support.backend import FakeLabelStudio
from tests.support.completing import DIGEST, VERSION, WORDS, Completing, moving, regions
from tests.support.databases import EACH_DATABASE
from tests.support.killing import Watch, killed_at
from tests.support.requests import wait_until

pytestmark = pytest.mark.timeout(120)


Make = Callable[..., Completing]


@pytest.fixture
def make(tmp_path: Path, executor: ModelExecutor) -> Iterator[Make]:
    made = []

    def make(**given: Any) -> Completing:
        made.append(Completing(tmp_path, executor, **given))
        return made[-1]

    yield make
    for one in made:
        one.completer.close()
        one.close()


@pytest.fixture
def completing(make: Make) -> Completing:
    return make()


# --- masks on pages


@pytest.mark.parametrize("kind", ["brush", "bitmask", "polygon", "vector"])
def test_a_proposal_that_was_accepted_as_it_was_counts_a_little(completing: Completing, kind: str) -> None:
    proposal = completing.propose(moving(hidden=(10, 11)))
    completing.receive(
        [event_body("ANNOTATION_CREATED", annotation(regions(proposal, kind)), config=frames_config(kind))]
    )
    completing.ingestor.catch_up()
    (correction,) = completing.complete()
    assert not correction.touched
    assert correction.weight == Weights().untouched
    assert [correction.frames[i].kind for i in (9, 10)] == [Evidence.MASK, Evidence.EMPTY]
    assert correction.iou is not None
    assert correction.iou >= 0.98
    assert correction.proposed is not None
    assert (correction.proposed.version, correction.proposed.rank) == (VERSION, 0)
    counts = completing.corrections.counts(1)
    assert (counts.usable, counts.untouched, counts.changed) == (1, 1, 0)


def test_changed_and_erased_pages_count_in_full(completing: Completing) -> None:
    proposal = completing.propose(moving())
    kept = [region for region in regions(proposal) if region["item_index"] not in (4, 5)]
    changed = mask_regions({4: square(30)}, origin="prediction-changed")
    completing.submit(kept + changed, lead_time=31.5)
    (correction,) = completing.complete()
    assert {i for i, frame in correction.frames.items() if frame.touched} == {4, 5}
    assert correction.masks[5] is None
    assert correction.frames[5].iou == 0
    assert correction.frames[3].iou == 1
    assert correction.frames[4].weight == 1
    assert correction.lead_time == 31.5
    assert (correction.num_frames, correction.height, correction.width) == (PAGES, HEIGHT, WIDTH)
    assert correction.propagated == {}


def test_an_interactive_answer_that_nobody_touched_is_found_out(completing: Completing) -> None:
    proposal = completing.propose(moving())
    completing.submit([{**region, "origin": "manual"} for region in regions(proposal)])
    (correction,) = completing.complete()
    assert not correction.touched


def test_dragged_corners_are_found_by_their_geometry(completing: Completing) -> None:
    proposal = completing.propose(moving())
    results = regions(proposal, "polygon")
    results[3]["value"]["points"] = [[x + 15, y] for x, y in results[3]["value"]["points"]]
    completing.receive(
        [event_body("ANNOTATION_CREATED", annotation(results), config=frames_config("polygon"))]
    )
    completing.ingestor.catch_up()
    (correction,) = completing.complete()
    assert [i for i, frame in correction.frames.items() if frame.touched] == [3]


def test_pages_drawn_from_nothing_leave_the_others_to_be_filled(completing: Completing) -> None:
    completing.propose(moving())
    completing.submit(mask_regions({0: square(20), 6: square(40)}, proposed=False))
    (correction,) = completing.complete()
    assert sorted(correction.frames) == [0, 6]
    assert correction.touched
    assert sorted(correction.propagated) == [i for i in range(PAGES) if i not in (0, 6)]
    # What is sure enough is there for export; what was decided always is.
    assert sorted(correction.filled(0.5)) == [0, 1, 2, 3, 4, 5, 6]
    assert correction.filled(0.5)[6] == correction.masks[6]


def test_propagation_can_be_switched_off(make: Make) -> None:
    completing = make(propagate_corrections=False)
    completing.submit(mask_regions({0: square(20)}, proposed=False))
    (correction,) = completing.complete()
    assert correction.propagated == {}
    assert JobStore(completing.database).newest() == []


def test_weights_come_from_the_settings(make: Make) -> None:
    completing = make(untouched_weight=0.1, box_weight=0.7)
    weights = Weights.from_settings(completing.settings)
    completing.submit(regions(completing.propose(moving())))
    completing.complete()
    (correction,) = completing.corrections.corrections(1, weights)
    assert correction.weight == 0.1
    assert weights.of(Evidence.BOX, touched=False) == pytest.approx(0.07)


# --- verdicts


def test_a_rejected_proposal_is_an_example_without_masks(completing: Completing) -> None:
    proposal = completing.propose(moving(), moving(start=20))
    completing.submit([*regions(proposal, rank=1), choice("Reject")])
    (correction,) = completing.complete()
    assert correction.rejected
    assert correction.masks == {}
    assert correction.frames == {}
    assert correction.filled(0.0) == {}
    assert correction.proposed is not None
    assert correction.proposed.rank == 1
    assert completing.corrections.count_since(1, None) == 0
    assert completing.corrections.counts(1).rejected == 1


def test_not_visible_is_an_empty_mask_on_every_page(completing: Completing) -> None:
    completing.propose(moving(hidden=(3,)))
    completing.submit([choice("not visible")])
    (correction,) = completing.complete()
    assert correction.verdict is Verdict.NOT_VISIBLE
    assert list(correction.masks.values()) == [None] * PAGES
    assert not correction.visible
    assert [i for i, frame in correction.frames.items() if not frame.touched] == [3]


# --- boxes on a video


def test_drawn_boxes_become_masks_that_count_less(completing: Completing) -> None:
    completing.submit_video([track({2: (25, 25, 25, 50), 8: (50, 25, 25, 50)}, last_enabled=False)])
    (correction,) = completing.complete()
    assert correction.side == "video"
    assert {i for i, frame in correction.frames.items() if frame.kind is Evidence.BOX} == {2, 8}
    assert {i for i, frame in correction.frames.items() if frame.kind is Evidence.EMPTY} == {9, 10, 11}
    rle = correction.masks[2]
    assert rle is not None
    assert decode_rle(rle)[9:27, 16:32].all()
    assert mask_area(rle) == 18 * 16
    assert correction.frames[2].weight == Weights().box
    assert sorted(correction.propagated) == [0, 1, 3, 4, 5, 6, 7]
    assert JobStore(completing.database).newest()[0].state is JobState.DONE


def test_a_track_that_nobody_touched_has_the_masks_of_its_proposal(completing: Completing) -> None:
    proposal = completing.propose(moving(hidden=(11,)))
    side = _video_side()
    results = tracklet_to_video_region(
        proposal.tracklets[0],
        side,
        instance_id="t5-0123456789",
        expression=WORDS,
        numbers=FrameNumbers.constant(PAGES, 25),
    )
    completing.submit_video(results)
    (correction,) = completing.complete()
    assert not correction.touched
    assert correction.weight == pytest.approx(Weights().box * Weights().untouched * 0.9)
    boxed = [i for i, frame in correction.frames.items() if frame.kind is Evidence.BOX]
    assert boxed
    assert all(correction.masks[i] == proposal.tracklets[0].rles[i] for i in boxed)
    assert set(correction.frames) | set(correction.propagated) == set(range(PAGES))
    assert JobStore(completing.database).newest() == [], "no model was needed"


def proposed_track(completing: Completing, hidden: tuple[int, ...]) -> dict[str, Any]:
    """A proposed box track that is hidden in some frames."""
    (result,) = tracklet_to_video_region(
        completing.propose(moving(hidden=hidden)).tracklets[0],
        _video_side(),
        instance_id="t5-0123456789",
        expression=WORDS,
        numbers=FrameNumbers.constant(PAGES, 25),
    )
    return result


def test_nobody_looked_before_a_track_that_was_drawn_by_hand(completing: Completing) -> None:
    """Label Studio hides a track before its first keyframe: SAM 2 says what is there, not the annotator."""
    completing.propose(moving())  # of the same task, but the annotator drew a track of their own
    completing.submit_video([track({4: (25, 25, 25, 50)})])
    (correction,) = completing.complete()
    assert sorted(correction.frames) == [4]
    assert {0, 1, 2, 3} <= set(correction.propagated)
    (sequence,) = sequences([correction], 0.0)
    origins = [sequence.objects[0].masks[index].provenance for index in range(5)]
    assert origins == [Provenance.PROPAGATED] * 4 + [Provenance.HUMAN]


def test_a_proposed_track_says_where_it_begins(completing: Completing) -> None:
    result = proposed_track(completing, hidden=(0, 1, 2))
    result["value"]["sequence"][-1]["x"] += 10  # changed, but not where it begins
    completing.submit_video([result])
    (correction,) = completing.complete()
    assert [correction.frames[i].touched for i in (0, 1, 2)] == [False] * 3
    assert [correction.frames[i].confidence for i in (0, 1, 2)] == pytest.approx([0.1] * 3)
    assert correction.touched


def test_a_proposed_track_that_an_annotator_made_begin_later_is_a_persons_word(
    completing: Completing,
) -> None:
    result = proposed_track(completing, hidden=())
    sequence = result["value"]["sequence"]
    sequence[0] = {**sequence[0], "frame": 4}
    completing.submit_video([result])
    (correction,) = completing.complete()
    assert [correction.frames[i].touched for i in (0, 1, 2)] == [True] * 3
    assert [correction.masks[i] for i in (0, 1, 2)] == [None] * 3


def test_where_the_proposal_is_gone_nobody_says_where_a_track_begins(
    completing: Completing, tmp_path: Path
) -> None:
    result = proposed_track(completing, hidden=(0, 1, 2))
    shutil.rmtree(tmp_path / "data" / "proposals")
    completing.submit_video([result])
    (correction,) = completing.complete()
    assert not {0, 1, 2} & set(correction.frames)


def test_boxes_beyond_the_video_say_at_which_rate_they_are_numbered(completing: Completing) -> None:
    completing.submit_video([track({0: (25, 25, 25, 50), 47: (50, 25, 25, 50)}, frames_count=48)])
    assert completing.complete() == []
    problem, reason = completing.problem()
    assert (problem, str(problem)) == (Problem.FRAME_RATE, "another frame rate")
    assert "numbered for 48 frames at 25 a second, but the video has 12" in reason
    assert "fps" in reason


def test_a_moved_keyframe_alone_needs_the_model(completing: Completing) -> None:
    proposal = completing.propose(moving())
    (result,) = tracklet_to_video_region(
        proposal.tracklets[0],
        _video_side(),
        instance_id="t5-0123456789",
        expression=WORDS,
        numbers=FrameNumbers.constant(PAGES, 25),
    )
    result["value"]["sequence"][0]["x"] += 30
    completing.submit_video([result])
    (correction,) = completing.complete()
    assert correction.touched
    assert correction.frames[0].touched
    assert correction.frames[0].iou == 0
    assert not correction.frames[PAGES - 1].touched


def test_work_that_was_put_down_is_asked_for_again(completing: Completing) -> None:
    completing.media.video = "busy"
    completing.submit_video([track({2: (25, 25, 25, 50)})])
    assert len(completing.complete()) == 1


def test_a_count_of_frames_that_is_a_little_too_high_is_no_error(completing: Completing) -> None:
    completing.submit_video([track({0: (25, 25, 25, 50), PAGES: (25, 25, 25, 50)}, frames_count=PAGES + 1)])
    (correction,) = completing.complete()
    assert max(correction.frames) < PAGES


def test_boxes_that_are_numbered_at_twice_the_rate_stand_on_the_frames_that_were_shown(
    completing: Completing,
) -> None:
    completing.media.timeline = PlayerTimeline.constant(PAGES, 12.5)
    completing.submit_video(
        [track({0: (25, 25, 25, 50), 2 * PAGES - 1: (25, 25, 25, 50)}, frames_count=2 * PAGES)]
    )
    (correction,) = completing.complete()
    boxed = [i for i, frame in correction.frames.items() if frame.kind is Evidence.BOX]
    assert boxed == [0, PAGES - 1]


# --- what was proposed


def test_the_prediction_says_which_version_and_which_candidate_it_was(
    make: Make, fake_label_studio: FakeLabelStudio
) -> None:
    completing = make(label_studio_url=fake_label_studio.url, label_studio_api_key="key")
    first = completing.propose(moving(), moving(start=30), version="v1")
    completing.propose(moving(start=3), version="v2")
    fake_label_studio.predictions.append(
        {"id": 40, "task": 5, "model_version": "v1", "result": regions(first, rank=1)}
    )
    # The annotator drew what the first candidate had been; it began from the second nevertheless.
    completing.submit(regions(first), parent_prediction=40)
    (correction,) = completing.complete()
    assert correction.proposed is not None
    assert (correction.proposed.version, correction.proposed.rank) == ("v1", 1)


def test_a_prediction_of_another_backend_is_no_proposal_of_ours(
    make: Make, fake_label_studio: FakeLabelStudio
) -> None:
    completing = make(label_studio_url=fake_label_studio.url, label_studio_api_key="key")
    proposal = completing.propose(moving())
    fake_label_studio.predictions.append({"id": 40, "task": 5, "model_version": "other", "result": []})
    completing.submit(regions(proposal), parent_prediction=40)
    (correction,) = completing.complete()
    assert correction.proposed is None


def test_a_prediction_that_is_gone_is_guessed_by_time_and_overlap(
    make: Make, fake_label_studio: FakeLabelStudio
) -> None:
    completing = make(label_studio_url=fake_label_studio.url, label_studio_api_key="key")
    proposal = completing.propose(moving(), moving(start=30))
    completing.submit(regions(proposal, rank=1), parent_prediction=40)
    (correction,) = completing.complete()
    assert correction.proposed is not None
    assert correction.proposed.rank == 1


def test_the_newest_proposal_before_the_annotation_is_taken(completing: Completing) -> None:
    completing.submit(mask_regions({0: square(2)}))
    (pending,) = completing.completions.pending(1)
    decision = pending.decision
    assert decision.updated_at is not None
    rows = [
        KnownProposal(ProposalKey(DIGEST, WORDS, version), version, decision.updated_at.replace(hour=hour))
        for version, hour in (("v1", 13), ("v2", 14), ("v3", 20))
    ]

    def chosen(**changes: Any) -> str | None:
        row = choose_proposal(rows, replace(decision, **changes), None)
        return None if row is None else row.key.version

    assert chosen() == "v2"
    early = decision.updated_at.replace(hour=1)
    assert chosen(updated_at=early) == "v3", "its own regions say that it began from one: the clocks differ"
    assert chosen(updated_at=early, proposed_expression=None) is None, "it came later, and nobody saw it"
    assert chosen(expression="other", proposed_expression="other") is None
    found = choose_proposal(rows, decision, "v3")
    assert found is not None
    assert found.key.version == "v3"


def test_without_the_proposals_file_there_is_no_comparison_but_a_correction(completing: Completing) -> None:
    proposal = completing.propose(moving())
    for file in (completing.settings.data_dir / "proposals").rglob("*.gz"):
        file.unlink()
    completing.submit(regions(proposal))
    (correction,) = completing.complete()
    assert correction.proposed is None
    assert correction.iou is None
    assert not correction.touched, "Label Studio says so itself"


# --- what cannot be used


def test_masks_of_another_size_are_set_aside(
    completing: Completing, caplog: pytest.LogCaptureFixture
) -> None:
    completing.media.size = (2 * WIDTH, 2 * HEIGHT)
    completing.submit(mask_regions({0: square(2)}))
    assert completing.complete() == []
    problem, reason = completing.problem()
    assert problem is Problem.WRONG_SIZE
    assert "64 x 36" in reason
    assert "128 x 72" in reason
    assert "task 5, annotation 7: set aside (wrong size)" in caplog.text


def test_a_page_beyond_the_end_is_set_aside(completing: Completing) -> None:
    completing.media.pages = 3
    completing.submit(mask_regions({0: square(2), 8: square(2)}))
    assert completing.complete() == []
    problem, reason = completing.problem()
    assert problem is Problem.WRONG_SIZE
    assert "page 9 is annotated, but there are 3" in reason


def test_a_video_that_is_gone_is_set_aside_with_the_servers_words(completing: Completing) -> None:
    completing.media.trouble = MediaUnavailableError("/data/upload/1/clip.mp4: not found (404)", 404)
    completing.submit_video([track({2: (25, 25, 25, 50)})])
    assert completing.complete() == []
    assert completing.problem() == (Problem.MEDIA_GONE, "/data/upload/1/clip.mp4: not found (404)")


def test_a_video_that_does_not_decode_is_set_aside(completing: Completing) -> None:
    completing.media.video = "unreadable"
    completing.submit_video([track({2: (25, 25, 25, 50)})])
    assert completing.complete() == []
    problem, reason = completing.problem()
    assert problem is Problem.MEDIA_GONE
    assert "export it again" in reason


def test_boxes_around_nothing_are_set_aside(completing: Completing) -> None:
    completing.media.video = "blind"
    completing.submit_video([track({2: (25, 25, 25, 50)})])
    assert completing.complete() == []
    problem, reason = completing.problem()
    assert problem is Problem.NO_MASK
    assert "closer around the object" in reason


def test_a_passing_trouble_is_waited_out(completing: Completing) -> None:
    completing.media.trouble = MediaTimeoutError("clip.mp4 did not arrive within the time limit")
    completing.submit(mask_regions({0: square(2)}))
    assert completing.complete() == []
    counts = completing.corrections.counts(1)
    assert (counts.pending, counts.set_aside) == (1, 0)
    completing.media.trouble = None
    assert len(completing.complete()) == 1


def test_a_trouble_that_does_not_pass_is_set_aside(completing: Completing) -> None:
    completing.media.trouble = MediaUnavailableError("the server answers 503", 503)
    completing.submit(mask_regions({0: square(2)}))
    for _ in range(5):
        assert completing.corrections.counts(1).pending == 1
        completing.complete()
    assert completing.problem() == (Problem.MEDIA_GONE, "the server answers 503")


def test_a_model_that_fails_leaves_masks_usable(completing: Completing, tmp_path: Path) -> None:
    completing.submit_video([track({2: (25, 25, 25, 50)})])
    completing.media.video = "broken"
    for _ in range(5):
        assert completing.complete() == []
    problem, reason = completing.problem()
    assert problem is Problem.MODEL
    assert "out of memory" in reason


def cancelled(completing: Completing) -> None:
    """Complete what there is, and cancel the model's work on it in the middle."""
    working = threading.Thread(target=completing.complete)
    working.start()
    wait_until(lambda: any(job.state is JobState.RUNNING for job in JobStore(completing.database).newest()))
    (job,) = JobStore(completing.database).newest()
    assert job.kind == "masks"
    assert not completing.completer.cancel(job.id + 1)
    assert completing.completer.cancel(job.id)
    working.join()
    (job,) = JobStore(completing.database).newest()
    assert job.state is JobState.CANCELLED
    assert not completing.completer.cancel(job.id), "it has ended"


def test_cancelled_work_on_boxes_is_set_aside_until_annotations_are_read_anew(completing: Completing) -> None:
    completing.submit_video([track({2: (25, 25, 25, 50)})])
    completing.media.video = "endless"
    cancelled(completing)
    problem, reason = completing.problem()
    assert problem is Problem.MODEL
    assert "cancelled on request" in reason
    completing.media.video = "video"
    assert completing.complete() == [], "nobody asked for it again"
    assert completing.completions.retry(1, [Problem.MODEL]) == 1
    assert len(completing.complete()) == 1


def test_cancelled_propagation_leaves_the_annotators_masks_usable(completing: Completing) -> None:
    completing.media.folder_name = "endless"
    completing.submit(mask_regions({0: square(20)}, proposed=False))
    cancelled(completing)
    (correction,) = completing.complete()
    assert sorted(correction.frames) == [0]
    assert correction.propagated == {}
    assert len(JobStore(completing.database).newest()) == 1, "it is not begun again"


def test_an_annotation_that_changes_meanwhile_is_not_overwritten(completing: Completing) -> None:
    completing.submit(mask_regions({0: square(2)}), minute=1)
    (before,) = completing.completions.pending(1)
    completing.submit(mask_regions({0: square(9)}), minute=2)
    assert not completing.completions.fail(before, Problem.MODEL, "too late")
    assert not completing.completions.postpone(before, "too late")
    (correction,) = completing.complete()
    rle = correction.masks[0]
    assert rle is not None
    np.testing.assert_array_equal(decode_rle(rle), square(9))


def test_a_deleted_annotation_leaves_the_next_refinement(completing: Completing) -> None:
    completing.submit(mask_regions({0: square(2)}))
    assert len(completing.complete()) == 1
    completing.receive([{"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 7}], "project": {"id": 1}}])
    completing.ingestor.catch_up()
    assert completing.complete() == []
    assert completing.corrections.count_since(1, None) == 0


@EACH_DATABASE
def test_a_correction_is_new_from_when_it_becomes_usable(completing: Completing) -> None:
    """A refinement that begins while it waits for its media has not learned from it."""
    completing.media.trouble = MediaUnavailableError("the storage is off", 503)
    completing.submit(mask_regions({0: square(2)}))
    completing.complete()
    begun = datetime.now(UTC)
    completing.media.trouble = None
    (correction,) = completing.complete()
    assert correction.propagated, "it was usable before"
    assert completing.corrections.count_since(1, begun) == 1
    assert correction.changed_at > begun


@EACH_DATABASE
def test_a_usable_correction_is_not_new_once_its_gaps_are_filled(completing: Completing) -> None:
    completing.submit(mask_regions({0: square(2)}))
    (pending,) = completing.completions.pending(1)
    usable = Completion("m", PAGES, HEIGHT, WIDTH, {}, {}, None)
    assert completing.completions.complete(pending, usable, propagated=False)
    begun = datetime.now(UTC)
    (correction,) = completing.complete()
    assert correction.propagated
    assert completing.corrections.count_since(1, begun) == 0
    assert completing.corrections.count_since(1, None) == 1


def test_corrections_are_completed_where_the_project_cannot_be_read(completing: Completing) -> None:
    completing.submit(mask_regions({0: square(2)}))
    refresher = CorrectionRefresher(completing.ingestor, completing.completer)
    with pytest.raises(ConfigError):
        refresher.refresh(1)
    assert completing.corrections.counts(1).usable == 1


def test_what_others_set_aside_stays_aside_until_it_changes(completing: Completing) -> None:
    completing.submit(mask_regions({0: square(2)}), minute=1)
    (correction,) = completing.complete()
    completing.corrections.set_aside(correction.id, Problem.MODEL, "the trainer cannot use it")
    assert completing.complete() == []
    assert completing.problem() == (Problem.MODEL, "the trainer cannot use it")
    completing.submit(mask_regions({0: square(5)}), minute=2)
    (again,) = completing.complete()
    assert again.id == correction.id
    assert again.revision != correction.revision


def test_projects_do_not_mix(completing: Completing) -> None:
    completing.submit(mask_regions({0: square(2)}), 7)
    body = event_body("ANNOTATION_CREATED", {**annotation(mask_regions({0: square(5)}), 8), "project": 2})
    body["project"]["id"] = 2
    completing.receive([body])
    completing.ingestor.catch_up()
    completing.completer.complete_all(1, patiently=False)
    assert [correction.annotation_id for correction in completing.corrections.corrections(1)] == [7]
    assert completing.corrections.corrections(2) == []
    assert completing.corrections.counts(2).pending == 1


# --- the thread, and kills


def test_it_runs_by_itself_and_tells(completing: Completing) -> None:
    told: list[int] = []
    completing.completer.listeners.append(told.append)
    completing.completer.start()
    completing.submit(mask_regions({0: square(2)}))
    completing.completer.notify()
    wait_until(lambda: completing.corrections.counts(1).usable == 1)
    wait_until(lambda: told[:1] == [1])


@pytest.mark.parametrize("point", [1, 3, 6, 10, 15, 20])
def test_a_kill_during_completion_is_made_good(tmp_path: Path, make: Make, point: int) -> None:
    """SIGKILL at the n-th statement; the next process completes what the killed one had not."""
    completing = make(propagate_corrections=False)
    proposal = completing.propose(moving())
    for number in range(3):
        completing.submit(regions(proposal), number)

    def complete(watch: Watch) -> None:
        logging.disable()
        # Not the parent's connections: SQLite's must not cross a fork.
        own = Completing(tmp_path, completing.executor, propagate_corrections=False)
        watch(own.database)
        own.completer.complete_all(patiently=False)

    assert killed_at(point, complete)
    corrections = completing.complete()
    assert [correction.annotation_id for correction in corrections] == [0, 1, 2]
    assert all(correction.proposed is not None for correction in corrections)


def _video_side() -> Any:
    side = parse_controls(VIDEO_CONFIG).video
    assert side is not None
    return side
