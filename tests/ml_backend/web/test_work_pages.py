"""Pages about people's work: corrections with pictures and reviews, annotators, frames to check, previews, filters."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_backend.corrections.filters import CorrectionFilter, Reviewed
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import AnnotationRow, JobState, PromptVersionRow, ProposalKey
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.task import Task
from ml_backend.models.messages import ProposeRequest
from ml_backend.models.reporter import SilentReporter
from ml_backend.predictions.messages import describe_proposal
from ml_backend.predictions.tasks import TaskStore
from ml_backend.proposals import ProposalFiles
from ml_backend.refinement.version_store import set_champion
from ml_backend.web.pages.overview import GROUPS, group_settings
from ml_backend.web.pages.queries import Finds, ProposalFilter, count_proposals, list_proposals
from tests.support import proposal_targets
from tests.support.annotation_samples import choice, event_body, frames_config, mask_regions, square
from tests.support.backend import VERSION, Backend, FakeLabelStudio, MakeBackend
from tests.support.databases import EACH_DATABASE
from tests.support.pages import FRAMES, HEIGHT, FilmedMedia, text_of, token_in

pytestmark = EACH_DATABASE

PROJECT = 1
CORRECTIONS = f"/pages/projects/{PROJECT}/corrections"
TASKS = {5: "the red ball", 6: "the green ball", 8: "nothing green"}
PAGES = [f"/data/local-files/?d=clip/{page:05}.jpg" for page in range(FRAMES)]


@pytest.fixture
def desk(make_backend: MakeBackend, fake_label_studio: FakeLabelStudio, tmp_path: Path) -> Backend:
    """A backend with three predicted tasks of pages that can be looked at."""
    loader = FilmedMedia(tmp_path / "pages")
    backend = make_backend(
        loader=loader,
        label_studio_url=fake_label_studio.url,
        label_studio_api_key="key",
    )
    config = frames_config()
    setup = {"project": f"{PROJECT}.1", "schema": config, "hostname": fake_label_studio.url}
    backend.post("/setup", setup)
    tasks = [{"id": task, "data": {"frames": PAGES, "expr": words}} for task, words in TASKS.items()]
    fake_label_studio.project = {"id": PROJECT, "title": "Balls <1>", "label_config": config}
    fake_label_studio.tasks = [{**task, "total_annotations": 0, "total_predictions": 0} for task in tasks]
    files = ProposalFiles(backend.service.settings.data_dir)
    for task, words in TASKS.items():
        data = {"frames": PAGES, "expr": words}
        media = loader.load(Task(task, data), parse_controls(config), None)
        request = ProposeRequest(media.path, words, None, 3, None)
        proposal = proposal_targets.propose(request, SilentReporter())
        if task == 6:
            proposal.tracklets[0].frame_scores[3] = 0.5  # a frame to check
        key = ProposalKey(media.digest, words, VERSION)
        scores = [one.score for one in proposal.tracklets]
        ProposalStore(backend.database).add(
            key,
            project_id=PROJECT,
            task_id=task,
            path=files.save(key, proposal),
            score=scores[0] if scores else None,
            margin=scores[0] - scores[1] if len(scores) > 1 else None,
        )
        TaskStore(backend.database).note(PROJECT, task, data)
    return backend


def submit(backend: Backend, number: int, task: int, results: list[dict[str, Any]], **fields: Any) -> None:
    """Let an annotator submit an annotation, and have it completed."""
    annotation = {
        "id": number,
        "task": task,
        "project": PROJECT,
        "result": results,
        "was_cancelled": False,
        "created_at": "2026-11-22T23:30:00.000000Z",
        "updated_at": f"2026-11-22T23:{number:02}:00.000000Z",
        "lead_time": 60.0,
        "completed_by": 1,
        **fields,
    }
    data = {"frames": PAGES, "expr": TASKS[task]}
    body = event_body("ANNOTATION_CREATED", annotation, data=data)
    body["task"]["id"] = task
    backend.post("/webhook", body)
    backend.service.ingestor.catch_up()
    backend.service._completer.complete_all(PROJECT)


def masks(shift: int = 0, words: str = TASKS[5], task: int = 5) -> list[dict[str, Any]]:
    every = {frame: square(4 + frame + shift, 6) for frame in range(FRAMES)}
    return mask_regions(every, task=task, expression=words, origin="prediction-changed")


def picture(backend: Backend, path: str) -> np.ndarray[Any, Any]:
    response = backend.client.get(path)
    assert response.status_code == 200, response.get_data(as_text=True)
    with Image.open(io.BytesIO(response.get_data())) as image:
        return np.array(image.convert("RGB"))


# --- corrections


def test_a_correction_stands_beside_its_pictures_and_its_annotator(desk: Backend) -> None:
    submit(desk, 1, 5, masks(8), created_username="Ann Example ann@example.org, 1")
    page = text_of(desk.client, CORRECTIONS)
    assert "Ann Example" in page
    assert "ann@example.org" not in page
    assert "1:00" in page
    before, after = re.findall(r'<img [^>]*src="(/pages/[^"]+)"', page)
    assert (before.endswith("/proposed.jpg"), after.endswith("/accepted.jpg")) == (True, True)
    first, second = picture(desk, before), picture(desk, after)
    assert first.shape == second.shape
    assert first.shape[0] < HEIGHT, "the object's surroundings, not the whole frame"
    assert (np.abs(first.astype(int) - second).max(axis=2) > 60).sum() > 20
    kept = sorted((desk.service.settings.data_dir / "thumbnails").iterdir())
    assert len(kept) == 1, "one frame of the media serves both"
    assert desk.client.get(before.replace("proposed", "imagined")).status_code == 404


def test_corrections_are_searched_and_filtered(desk: Backend) -> None:
    submit(desk, 1, 5, masks(3))
    submit(desk, 2, 6, [*masks(0, TASKS[6], 6), choice("Reject")], completed_by=2)

    def shown(query: str) -> set[str]:
        return set(re.findall(r"annotation-(\d+)-", text_of(desk.client, f"{CORRECTIONS}?{query}")))

    assert shown("") == {"1", "2"}
    assert shown("q=GREEN") == shown("q=6") == shown("standing=rejected") == shown("annotator=2") == {"2"}
    assert shown("q=red&standing=corrected") == {"1"}
    assert shown("q=%25") == shown("annotator=3") == set()
    assert "No correction is like that" in text_of(desk.client, f"{CORRECTIONS}?q=blue")
    assert shown("number=9&endpoint=x&_external=1&annotation=3") == {"1", "2"}, "links keep what they know"
    assert shown("standing=odd&annotator=x") == {"1", "2"}, "what is no choice chooses all"


def test_a_returned_annotation_is_out_of_use_until_it_is_changed_or_accepted(
    desk: Backend, fake_label_studio: FakeLabelStudio
) -> None:
    submit(desk, 1, 5, masks(3))
    store = desk.service.corrections
    form = {"csrf_token": token_in(text_of(desk.client, CORRECTIONS)), "verdict": "returned"}
    path = f"/pages/projects/{PROJECT}/annotations/1/review"
    assert desk.client.post(path, data=form).status_code == 400, "a note is needed"
    form["note"] = "the left  <edge> is missing"
    assert desk.client.post(path, data={**form, "csrf_token": "another"}).status_code == 403
    assert desk.client.post(path, data=form).status_code == 303
    assert store.corrections(PROJECT) == []
    (aside,) = store.list_set_aside(PROJECT)
    assert aside.problem == "returned"
    assert aside.reason == "returned by a person, on the page: the left <edge> is missing"
    page = text_of(desk.client, CORRECTIONS)
    assert "“the left &lt;edge&gt; is missing”" in page
    data = next(task["data"] for task in fake_label_studio.tasks if task["id"] == 5)
    assert data["steerseg_review"] == "returned: the left <edge> is missing", "Label Studio shows it"

    submit(desk, 1, 5, masks(5), updated_at="2026-11-22T23:59:00.000000Z")
    assert [one.annotation_id for one in store.corrections(PROJECT)] == [1]
    assert "changed since" in text_of(desk.client, CORRECTIONS)
    mended = CorrectionFilter(reviewed=Reviewed.MENDED)
    assert store.count(PROJECT, mended) == store.count(PROJECT, CorrectionFilter(reviewed=Reviewed.OPEN)) == 1

    assert desk.client.post(path, data={**form, "verdict": "accepted"}).status_code == 303
    assert store.count(PROJECT, CorrectionFilter(reviewed=Reviewed.ACCEPTED)) == 1
    assert store.count(PROJECT, mended) == 0
    data = next(task["data"] for task in fake_label_studio.tasks if task["id"] == 5)
    assert "steerseg_review" not in data


def test_a_returned_annotation_may_be_accepted_as_it_is(
    desk: Backend, fake_label_studio: FakeLabelStudio
) -> None:
    submit(desk, 1, 5, masks(3))
    (before,) = desk.service.corrections.corrections(PROJECT)
    form = {"csrf_token": token_in(text_of(desk.client, CORRECTIONS)), "verdict": "returned", "note": "why?"}
    path = f"/pages/projects/{PROJECT}/annotations/1/review"
    fake_label_studio.tasks.clear()  # where the note cannot be written, the page says so
    assert desk.client.post(path, data=form).status_code == 303
    assert "Label Studio does not show it" in text_of(desk.client, CORRECTIONS)
    desk.service._completer.complete_all(PROJECT)
    assert desk.service.corrections.corrections(PROJECT) == []
    assert desk.client.post(path, data={**form, "verdict": "accepted"}).status_code == 303
    (after,) = desk.service.corrections.corrections(PROJECT)
    assert (after.id, after.revision) == (before.id, before.revision)
    assert desk.client.post(path.replace("/1/review", "/9/review"), data=form).status_code == 404
    assert desk.client.post(path, data={**form, "verdict": "perhaps"}).status_code == 400


# --- annotators


def test_annotators_are_listed_with_time_and_agreement(desk: Backend) -> None:
    submit(desk, 1, 5, masks(0), completed_by=1, lead_time=30.0)
    submit(desk, 2, 5, masks(5), completed_by=2, lead_time=90.0)
    submit(desk, 3, 6, masks(0, TASKS[6], 6), completed_by=2, lead_time=150.0)
    submit(desk, 4, 6, [], completed_by=2, was_cancelled=True)
    page = text_of(desk.client, f"/pages/projects/{PROJECT}/annotators")
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)]
    second, first = next(row for row in rows if "2" in row[1:2]), next(row for row in rows if "1" in row[1:2])
    # annotations, skipped, corrected, accepted, rejected, returned, set aside, median, in all, agreement
    assert second[2:] == ["2", "1", "2", "0", "0", "0", "0", "2:00", "4:00", "0.33", "on", "1"]
    assert first[2:] == ["1", "0", "1", "0", "0", "0", "0", "0:30", "0:30", "0.33", "on", "1"]
    assert "Sun 2026-11-22" in page


def test_days_begin_in_the_readers_zone(desk: Backend) -> None:
    submit(desk, 1, 5, masks(0))
    path = f"/pages/projects/{PROJECT}/annotators"
    assert "Times are in UTC" in text_of(desk.client, path)
    desk.client.set_cookie("steerseg_zone", "Asia/Tokyo")
    page = text_of(desk.client, path)
    assert "Mon 2026-11-23" in page
    assert "Times are in Asia/Tokyo" in page
    for odd in ("../../etc/passwd", "No/Where", "/etc", "\u00e9"):
        desk.client.set_cookie("steerseg_zone", odd)
        assert "Times are in UTC" in text_of(desk.client, path)


def test_names_titles_and_times_come_with_the_next_reading(
    desk: Backend, fake_label_studio: FakeLabelStudio
) -> None:
    """Also of annotations that an earlier release has read, of which they were not kept."""
    submit(desk, 1, 5, masks(0))
    with desk.database.writing() as session:
        row = session.get_one(AnnotationRow, 1)
        row.annotator = row.lead_time = row.created_at = None
    with desk.database.reading() as session:
        row = session.get_one(AnnotationRow, 1)
        digest, seen_at = row.digest, row.seen_at
    annotation = {
        **{"id": 1, "task": 5, "project": PROJECT, "result": masks(0), "was_cancelled": False},
        **{"updated_at": "2026-11-22T23:01:00.000000Z", "lead_time": 33.0, "completed_by": 4},
        "created_username": " bob@example.org, 4",
    }
    fake_label_studio.annotations[:] = [annotation]
    for task in fake_label_studio.tasks:
        task["total_annotations"] = int(task["id"] == 5)
    desk.service.ingestor.reconcile(PROJECT)
    with desk.database.reading() as session:
        row = session.get_one(AnnotationRow, 1)
        assert (row.annotator, row.lead_time, row.digest, row.seen_at) == (4, 33.0, digest, seen_at)
    page = text_of(desk.client, f"/pages/projects/{PROJECT}/annotators")
    assert "bob@example.org" in page
    assert "Balls &lt;1&gt;" in page
    assert "Balls &lt;1&gt;" in text_of(desk.client, "/")
    assert "Balls" not in text_of(desk.client, "/?q=cubes")


# --- frames to check, previews


def test_frames_to_check_are_shown_by_task(desk: Backend) -> None:
    path = f"/pages/projects/{PROJECT}/check"
    page = text_of(desk.client, path)
    tasks = re.findall(r'id="task-(\d+)"', page)
    assert tasks == ["6"]
    assert "certainty 0.50 that the object is there" in page
    assert "1 of 3 tasks with a proposal have such frames" in page
    assert "STEERSEG_CHECK_BOTH_WAYS" in page, "what is not computed is said"
    (one,) = re.findall(r'<img [^>]*src="(/pages/[^"]+)"', page)
    assert picture(desk, one).shape == (36, 64, 3)
    submit(desk, 1, 6, masks(0, TASKS[6], 6))
    assert 'id="task-6"' not in text_of(desk.client, path), "annotated tasks are left out"
    (proposal, *_) = list_proposals(desk.database, PROJECT, limit=1)
    assert desk.client.get(f"/pages/proposals/{proposal.id}/frames/99.jpg").status_code == 404


def test_a_preview_says_what_a_least_score_keeps(desk: Backend) -> None:
    path = f"/pages/projects/{PROJECT}/preview"
    page = text_of(desk.client, f"{path}?least=0.9")
    assert "data-kept-shown>0</b> of the 3 below" in page
    page = text_of(desk.client, f"{path}?least=0.5")
    assert "data-kept-shown>2</b> of the 3 below" in page
    assert "data-kept-all>2</b> of all 3 tasks" in page
    assert "nothing found" in page
    assert f"predict {PROJECT} --least-score" in page
    chosen = text_of(desk.client, f"{path}?task=6&task=99")
    assert "of the 1 below" in chosen
    assert "task 99" in chosen
    assert "data-least>0.30<" in text_of(desk.client, f"{path}?least=nan&task=x")


# --- lists, settings, verdicts


def test_proposals_are_searched_and_filtered(desk: Backend) -> None:
    def number(**chosen: Any) -> int:
        return count_proposals(desk.database, PROJECT, ProposalFilter(**chosen))

    assert number() == 3
    assert (number(text="GREEN"), number(text="5"), number(text="%")) == (2, 1, 0)
    assert [number(found=one) for one in (Finds.NOTHING, Finds.UNSURE, Finds.SURE)] == [1, 0, 2]
    page = text_of(desk.client, f"/pages/projects/{PROJECT}?q=red&found=sure&newest=on")
    assert "the red ball</a>" in page
    assert "the green ball</a>" not in page
    assert "No proposal is like that" in text_of(desk.client, f"/pages/projects/{PROJECT}?q=blue")


@pytest.mark.parametrize("calibrated", [True, False], ids=["confidences", "rank scores"])
def test_the_page_calls_unsure_what_annotators_are_told_is_unsure(desk: Backend, calibrated: bool) -> None:
    made = proposal_targets.propose(
        ProposeRequest(Path("clip.mp4"), "the red ball", None, 3, None), SilentReporter()
    )
    scores = (0.93, 0.5, 0.499, 0.4, 0.31) if calibrated else (0.8, 0.25, 0.2, 0.199, -0.1)
    told = {}
    for task, score in enumerate(scores, start=100):
        best = replace(made.tracklets[0], score=score)
        proposal = replace(made, tracklets=(best,), confidence=score if calibrated else None)
        told[task] = "Unsure:" in describe_proposal(proposal, guidance=desk.service.guidance)
        ProposalStore(desk.database).add(
            ProposalKey(f"video {task}", "the red ball", VERSION),
            project_id=PROJECT,
            task_id=task,
            path="none",
            score=proposal.standing[0],
            margin=None if calibrated else 0.01,
            calibrated=calibrated,
        )
    for found in (Finds.UNSURE, Finds.SURE):
        chosen = ProposalFilter(found=found, guidance=desk.service.guidance)
        listed = {one.task_id for one in list_proposals(desk.database, PROJECT, limit=99, chosen=chosen)}
        assert listed & told.keys() == {task for task in told if told[task] == (found is Finds.UNSURE)}
    page = text_of(desk.client, f"/pages/projects/{PROJECT}?found=unsure")
    assert "a confidence below 0.50, and a rank score below 0.20" in page
    assert page.count(">confidence</span> 0.49<" if calibrated else ">rank score</span> 0.19<") == 1
    assert "Of older proposals" not in page


def test_older_proposals_keep_their_meaning_and_say_so(desk: Backend) -> None:
    store = ProposalStore(desk.database)
    for task, (score, margin) in enumerate([(0.29, None), (0.9, 0.29), (0.3, None), (0.3, 0.3)], start=100):
        key = ProposalKey(f"video {task}", "the red ball", VERSION)
        store.add(key, project_id=PROJECT, task_id=task, path="none", score=score, margin=margin)
    unsure = list_proposals(desk.database, PROJECT, limit=99, chosen=ProposalFilter(found=Finds.UNSURE))
    assert {one.task_id for one in unsure} == {100, 101}
    page = text_of(desk.client, f"/pages/projects/{PROJECT}?found=unsure")
    assert "Of older proposals it is not known which of the two their score is." in page
    assert "where it, or the lead, is below 0.30" in page


def test_jobs_are_filtered(desk: Backend) -> None:
    failed = JobStore(desk.database).add("masks", "key", project_id=2, task_id=3, priority=1)
    JobStore(desk.database).finish(failed, JobState.FAILED, error="gone")
    desk.service.refine(str(PROJECT))

    def shown(query: str) -> list[str]:
        page = text_of(desk.client, f"/pages/jobs?{query}")
        return re.findall(r'<tr>\s*<td class="number">([^<]+)</td>', page)

    assert shown("") == ["refine-1", str(failed)]
    assert shown("state=failed") == shown("kind=masks") == shown("project=2") == [str(failed)]
    assert shown("kind=refine") == ["refine-1"]
    assert "None like that" in text_of(desk.client, "/pages/jobs?state=cancelled")


def test_refine_is_off_while_a_refinement_waits(desk: Backend) -> None:
    path = f"/pages/projects/{PROJECT}/versions"
    assert not re.search(r'id="refine" disabled', text_of(desk.client, path))
    desk.service.refine(str(PROJECT))
    assert re.search(
        r'id="refine" disabled title="A refinement (waits|runs) already."', text_of(desk.client, path)
    )


def test_what_the_gate_said_stays_true_after_a_promotion_by_hand(desk: Backend) -> None:
    with desk.database.writing() as session:
        row = PromptVersionRow(
            project_id=PROJECT,
            name="r1-abc",
            path="gone",
            reason="the gain is below 0.5 points",
            kept_back=True,
        )
        session.add(row)
        session.flush()
        number = row.id
    path = f"/pages/projects/{PROJECT}/versions"
    assert "Kept back by the gate: the gain is below" in text_of(desk.client, path)
    with desk.database.writing() as session:
        set_champion(session, PROJECT, session.get_one(PromptVersionRow, number), by="a person, on the page")
    page = re.sub(r"<[^>]+>", "", text_of(desk.client, path))
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    assert re.search(
        rf"Kept back by the gate, promoted by hand on {today} .*\(a person, on the page\): the gain", page
    )


def test_changed_settings_come_first_and_the_others_by_subject(desk: Backend) -> None:
    first, *groups = group_settings(desk.service.settings)
    assert first.changed
    assert "STEERSEG_DATA_DIR" in {one.variable for one in first.settings}
    assert [one.title for one in groups] == list(GROUPS.values())
    listed = [one.variable for group in (first, *groups) for one in group.settings]
    assert len(listed) == len(set(listed)) == len(type(desk.service.settings).model_fields)
    page = text_of(desk.client, "/pages/settings")
    assert page.index("Changed from the default") < page.index("The server")
    assert '<td class="soft">steerseg-data</td>' in page, "beside the default"


def test_long_ago_is_told_with_its_day(desk: Backend) -> None:
    old = JobStore(desk.database).add("propose", "key", project_id=PROJECT, task_id=3, priority=1)
    JobStore(desk.database).finish(old, JobState.DONE)
    page = text_of(desk.client, "/pages/jobs")
    assert re.search(r">\d\d:\d\d:\d\d</time>", page)
    known = ProjectStore(desk.database).find(PROJECT)
    assert known is not None
    assert datetime.now(UTC) - known.last_seen < timedelta(minutes=5)
