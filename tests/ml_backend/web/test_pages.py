"""The backend's own pages: what they show, who may see them, and that forms of other sites change nothing."""

from __future__ import annotations

import io
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import JobState, OrderMode, PromptStatus, PromptVersionRow
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.task_media import Media
from ml_backend.proposals import StoredPoint, StoredTracklet
from ml_backend.refinement.gate import Comparison, GateMetrics
from ml_backend.refinement.version_store import NewVersion, set_champion
from ml_backend.web.pages.curves import curve_of, presence_of
from ml_backend.web.pages.queries import ProposalFilter, list_proposals
from steerseg.masks import encode_rle
from steerseg.prompt_files import with_glossary
from steerseg.statistics import Interval
from steerseg.words.glossary import Entry, Glossary
from tests.support.backend import Backend, MakeBackend, recorded
from tests.support.databases import EACH_DATABASE
from tests.support.pages import FRAMES, HEIGHT, WIDTH, FilmedMedia, project_of, text_of, token_in
from tests.support.requests import introduce, wait_until, with_expression

PROJECT = 1


@pytest.fixture
def predicted(backend: Backend) -> Backend:
    """A backend that has predicted the tasks of a recorded request."""
    backend.post("/predict", introduce(backend))
    return backend


def add_version(backend: Backend, number: int = 1, model: str = "test-model") -> str:
    line = backend.service.line
    made = backend.service.settings.data_dir / f"made-{number}"
    digest = with_glossary(None, Glossary(entries=(Entry(term=f"word{number}", meaning="ball"),)), made)
    new = NewVersion(
        path=line.keep(made, digest),
        digest=digest,
        model=model,
        origin="refined",
        parent_id=None,
        curve=[1.0 / (step + 1) for step in range(40)],
        metrics=GateMetrics(held_out=Comparison(5, 0.71, 0.65, Interval(0.06, 0.01, 0.11, 5))),
        reason="better on 5 held-out videos",
    )
    return line.versions.add(project_of(backend), new).name


# --- what they show


def test_the_overview_names_projects_and_what_goes_on(predicted: Backend) -> None:
    page = text_of(predicted.client, "/")
    number = project_of(predicted)
    assert f'href="/pages/projects/{number}"' in page
    assert "SteerSeg for Label Studio" in page
    assert ">propose<" not in page
    assert "<script>" not in page, "nothing but the server's own files runs"


def test_jobs_show_progress_and_how_they_ended(predicted: Backend) -> None:
    number = project_of(predicted)
    running = JobStore(predicted.database).add("propose", "key", project_id=number, task_id=2, priority=1)
    JobStore(predicted.database).update(running, stage="tracking", fraction=0.42, attempts=2)
    failed = JobStore(predicted.database).add("propose", "key", project_id=number, task_id=3, priority=1)
    JobStore(predicted.database).finish(failed, JobState.FAILED, error="the video <b>is</b> gone")
    page = text_of(predicted.client, "/pages/jobs")
    assert '<progress value="0.42"' in page
    assert "tracking, 42%" in page
    assert "try 2" in page
    assert "the video &lt;b&gt;is&lt;/b&gt; gone" in page
    assert "data-live" in page
    assert re.search(r'href="/pages/proposals/\d+">look', page)


def test_a_running_job_is_cancelled_in_the_middle(backend: Backend, tmp_path: Path) -> None:
    release = tmp_path / "release"
    body = with_expression(introduce(backend), f"wait {release}")
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(backend.post("/predict", body)))
    asking.start()
    wait_until(Path(f"{release}.started").exists)
    page = text_of(backend.client, "/pages/jobs")
    (path,) = re.findall(r'action="(/pages/jobs/\d+/cancel)"', page)
    form = {"csrf_token": token_in(page)}
    assert backend.client.post(path).status_code == 403
    assert backend.client.post(path, data=form).status_code == 303
    asking.join()
    assert str(release) in page, "the expression is named"
    (told,) = answers[0]["errors"].values()
    assert "cancelled during tracking" in told
    page = text_of(backend.client, "/pages/jobs")
    assert 'class="badge cancelled"' in page
    assert "/cancel" not in page
    assert backend.client.post(path, data=form).status_code == 409, "it has ended"
    release.touch()
    assert backend.post("/predict", body)["errors"] == {}, "the task may be asked for again"


def test_the_api_cancels_too_and_says_when_there_is_nothing_to_cancel(predicted: Backend) -> None:
    response = predicted.client.post("/jobs/1/cancel")
    assert response.status_code == 409
    assert "it has ended" in response.get_json()["error"]
    assert predicted.client.post("/jobs/refine-1/cancel").status_code == 409, "there never was one"
    assert predicted.client.post("/jobs/everything/cancel").status_code == 404


def test_a_project_lists_its_proposals(predicted: Backend) -> None:
    number = project_of(predicted)
    page = text_of(predicted.client, f"/pages/projects/{number}")
    for one in list_proposals(predicted.database, number, limit=10):
        assert f'href="/pages/proposals/{one.id}"' in page
        assert one.key.expression in page
    assert "0.80" in page
    assert "No refinement runs" in page
    assert "no-store" in predicted.client.get(f"/pages/projects/{number}").headers["Cache-Control"]


@EACH_DATABASE
@pytest.mark.parametrize(
    ("word", "measure", "score"), [("doubtful", "confidence", 0.42), ("the", "rank score", 0.8)]
)
def test_a_project_says_what_the_score_of_a_proposal_is(
    backend: Backend, word: str, measure: str, score: float
) -> None:
    backend.post("/predict", with_expression(introduce(backend), f"{word} ball"))
    page = text_of(backend.client, f"/pages/projects/{project_of(backend)}?q={word}+ball")
    assert f'<span class="soft">{measure}</span> {score:.2f}' in page
    (one,) = list_proposals(
        backend.database, project_of(backend), limit=9, chosen=ProposalFilter(text=f"{word} ball")
    )
    assert (one.score, one.calibrated) == (score, measure == "confidence")


@EACH_DATABASE
def test_long_lists_have_pages(predicted: Backend) -> None:
    number = project_of(predicted)
    (one, *_) = list_proposals(predicted.database, number, limit=1)
    for task in range(1000, 1060):
        ProposalStore(predicted.database).add(
            one.key, project_id=number, task_id=task, path=one.path, score=None
        )
    first = text_of(predicted.client, f"/pages/projects/{number}")
    assert f"/pages/projects/{number}?from=50" in first
    assert "nothing found" in first
    second = text_of(predicted.client, f"/pages/projects/{number}?from=50")
    assert "51–62 of 62" in second
    assert "‹ newer" in second
    assert "51–" not in text_of(predicted.client, f"/pages/projects/{number}?from=x")


@pytest.mark.parametrize("path", ["/pages/projects/99", "/pages/projects/99/versions", "/pages/proposals/99"])
def test_what_is_not_there_is_told_as_a_page(backend: Backend, path: str) -> None:
    page = text_of(backend.client, path, 404)
    assert "That did not work" in page
    assert "99" in page


# --- a proposal as pictures


@pytest.fixture
def filmed(predicted: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Backend, int]:
    """A backend whose media can be looked at, and a proposal on pages."""
    monkeypatch.setattr(predicted.service.media, "_loader", FilmedMedia(tmp_path / "pages"))
    (one, *_) = list_proposals(predicted.database, project_of(predicted), limit=1)
    return predicted, one.id


def test_a_proposal_is_shown_with_tracklets_scores_and_keyframes(filmed: tuple[Backend, int]) -> None:
    backend, number = filmed
    page = text_of(backend.client, f"/pages/proposals/{number}")
    assert '<span class="chip">moving right</span>' in page
    assert "<b>0.80</b>" in page
    assert "on 10 of 12 frames" in page
    assert '<rect x="0.0" width="833.33"' in page
    pictures = re.findall(r'<img [^>]*src="(/pages/proposals/[^"]+)"', page)
    assert len(pictures) == 2 * 2, "two keyframes; points and masks, since it has only the fused map"
    for path in pictures:
        response = backend.client.get(path)
        assert response.status_code == 200, response.get_data(as_text=True)
        with Image.open(io.BytesIO(response.get_data())) as image:
            assert (image.format, image.size) == ("JPEG", (WIDTH, HEIGHT))
    masks = Image.open(io.BytesIO(backend.client.get(pictures[2]).get_data())).convert("RGB")
    assert masks.getpixel((6, 9)) != masks.getpixel((60, 30)), "the winner is tinted"


def test_the_overlay_plays_from_any_place(filmed: tuple[Backend, int]) -> None:
    backend, number = filmed
    response = backend.client.get(f"/pages/proposals/{number}/overlay.mp4")
    assert response.status_code == 200, response.get_data(as_text=True)
    with av.open(io.BytesIO(response.get_data())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == FRAMES
    assert np.abs(frames[0][8, 5].astype(int) - frames[0][30, 60]).max() > 30
    part = backend.client.get(f"/pages/proposals/{number}/overlay.mp4", headers={"Range": "bytes=0-99"})
    assert (part.status_code, len(part.get_data())) == (206, 100)
    kept = list((backend.service.settings.data_dir / "overlays").iterdir())
    assert [path.suffix for path in kept] == [".mp4"]


@pytest.mark.parametrize("picture", ["9/masks.jpg", "0/frame-map.jpg", "0/secrets.jpg"])
def test_a_picture_that_is_not_there(filmed: tuple[Backend, int], picture: str) -> None:
    backend, number = filmed
    text_of(backend.client, f"/pages/proposals/{number}/{picture}", 404)


def test_replaced_media_are_not_shown_under_old_masks(
    filmed: tuple[Backend, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, number = filmed

    class Replaced(FilmedMedia):
        def load(self, *arguments: Any) -> Media:
            return replace(super().load(*arguments), digest="another")

    monkeypatch.setattr(backend.service.media, "_loader", Replaced(tmp_path / "other"))
    assert "were replaced" in text_of(backend.client, f"/pages/proposals/{number}/0/masks.jpg", 422)


def test_presence_is_drawn_in_runs() -> None:
    shown, hidden = encode_rle(np.ones((4, 4), dtype=bool)), encode_rle(np.zeros((4, 4), dtype=bool))
    tracklet = StoredTracklet(
        rles=(shown, hidden, shown, shown), frame_scores=np.ones(4), prompt=StoredPoint(0, 0, 0, 1), score=1.0
    )
    assert presence_of(tracklet).runs == ((0.0, 250.0), (500.0, 500.0))
    assert presence_of(tracklet).visible == 3


def test_a_curve_needs_two_numbers() -> None:
    assert curve_of([]) is None
    assert curve_of([1.0, float("nan")]) is None
    flat = curve_of([0.5, 0.5])
    assert flat is not None
    assert flat.points == "0.0,0.0 100.0,0.0"
    long = curve_of([1 / (step + 1) for step in range(5000)])
    assert long is not None
    assert len(long.points.split()) <= 200
    assert long.first > long.last


# --- versions


@EACH_DATABASE
def test_versions_are_promoted_and_rolled_back_by_forms(predicted: Backend) -> None:
    number = project_of(predicted)
    name = add_version(predicted)
    path = f"/pages/projects/{number}/versions"
    page = text_of(predicted.client, path)
    assert "J&amp;F 65.0 → 71.0: +6.0 points" in page
    assert "loss over 40 steps" in page
    assert 'class="curve"' in page
    assert "Roll back" not in page
    form = {"csrf_token": token_in(page), "name": name}
    response = predicted.client.post(f"/pages/projects/{number}/promote", data=form)
    assert (response.status_code, response.location) == (303, path)
    champion = predicted.service.line.versions.champion(number)
    assert champion is not None
    assert (champion.name, champion.status) == (name, PromptStatus.CHAMPION)
    again = predicted.client.post(f"/pages/projects/{number}/promote", data=form)
    assert again.status_code == 409
    assert "already" in again.get_data(as_text=True)
    assert "Roll back" in text_of(predicted.client, path)
    assert predicted.client.post(f"/pages/projects/{number}/rollback", data=form).status_code == 303
    assert predicted.service.line.versions.champion(number) is None
    assert predicted.client.post(f"/pages/projects/{number}/rollback", data=form).status_code == 409


def test_a_version_of_another_model_is_not_promoted(predicted: Backend) -> None:
    number = project_of(predicted)
    name = add_version(predicted, model="another")
    page = text_of(predicted.client, f"/pages/projects/{number}/versions")
    assert "another vision-language model" in page
    form = {"csrf_token": token_in(page), "name": name}
    assert predicted.client.post(f"/pages/projects/{number}/promote", data=form).status_code == 409
    assert predicted.service.line.versions.champion(number) is None


def test_a_refinement_is_asked_for_by_a_form(predicted: Backend) -> None:
    number = project_of(predicted)
    form = {"csrf_token": token_in(text_of(predicted.client, f"/pages/projects/{number}/versions"))}
    assert predicted.client.post(f"/pages/projects/{number}/refine", data=form).status_code == 303
    assert "asked for by a request" in text_of(predicted.client, f"/pages/projects/{number}/versions")


# --- who may


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
def test_forms_without_the_sessions_secret_change_nothing(predicted: Backend, token: str | None) -> None:
    number = project_of(predicted)
    name = add_version(predicted)
    text_of(predicted.client, f"/pages/projects/{number}/versions")  # the session has a secret
    form = {"name": name} | ({} if token is None else {"csrf_token": token})
    response = predicted.client.post(f"/pages/projects/{number}/promote", data=form)
    assert response.status_code == 403
    assert "load the page again" in response.get_data(as_text=True)
    assert predicted.service.line.versions.champion(number) is None


def test_a_secret_of_another_session_is_none_of_this_one(predicted: Backend) -> None:
    number = project_of(predicted)
    name = add_version(predicted)
    path = f"/pages/projects/{number}/versions"
    other = predicted.client.application.test_client()
    form = {"csrf_token": token_in(text_of(other, path)), "name": name}
    text_of(predicted.client, path)
    assert predicted.client.post(f"/pages/projects/{number}/promote", data=form).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_browsers_word_on_other_sites_is_heeded_everywhere(predicted: Backend, site: str) -> None:
    number = project_of(predicted)
    for path in (f"/pages/projects/{number}/refine", f"/projects/{number}/refine", "/webhook"):
        response = predicted.client.post(path, json={}, headers={"Sec-Fetch-Site": site})
        assert response.status_code == 403, path
    assert predicted.client.get("/", headers={"Sec-Fetch-Site": site}).status_code == 200, "links are fine"


def test_pages_ask_for_the_same_credentials_as_the_api(make_backend: MakeBackend) -> None:
    backend = make_backend(basic_auth_username="ann", basic_auth_password="pass")
    auth = ("ann", "pass")
    backend.post("/setup", recorded("setup"), auth=auth)
    number = project_of(backend)
    for path in (
        *("/", "/pages/jobs", "/pages/settings", f"/pages/projects/{number}/versions"),
        *("/static/pages.css", "/static/pages.js", "/pages/proposals/1/overlay.mp4"),
    ):
        assert backend.client.get(path).status_code == 401
        assert backend.client.get(path, auth=("ann", "wrong")).status_code == 401
    assert backend.client.post(f"/pages/projects/{number}/promote").status_code == 401
    assert backend.client.get("/pages/jobs", auth=auth).status_code == 200


def test_settings_are_told_without_secrets(make_backend: MakeBackend) -> None:
    secrets = {
        "basic_auth_password": "s3cr3t-a",
        "webhook_secret": "s3cr3t-b",
        "label_studio_api_key": "s3cr3t-c",
    }
    backend = make_backend(
        basic_auth_username="ann",
        label_studio_url="http://bob:s3cr3t-d@localhost:8080/ls?key=s3cr3t-e",
        **secrets,
    )
    page = text_of(backend.client, "/pages/settings", auth=("ann", "s3cr3t-a"))
    assert "s3cr3t" not in page
    assert page.count("set; not shown") == 3
    assert "http://localhost:8080/ls" in page
    assert "STEERSEG_REFINE_AFTER" in page


def test_pages_load_nothing_from_elsewhere(predicted: Backend) -> None:
    number = project_of(predicted)
    for path in ("/", "/pages/jobs", "/pages/settings", f"/pages/projects/{number}/versions"):
        response = predicted.client.get(path)
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        page = response.get_data(as_text=True)
        assert not re.search(r'(src|<link[^>]* href)="(?!/)', page), "only the server's own files"
        assert " style=" not in page
        for link in set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page)):
            assert predicted.client.get(link).status_code == 200


def test_a_project_says_what_its_configuration_leaves_open(predicted: Backend) -> None:
    number = project_of(predicted)
    config = """<View><Image name="frames" valueList="$frames"/>
    <BrushLabels name="mask" toName="frames"><Label value="car"/></BrushLabels>
    <Choices name="review" toName="frames"><Choice value="Accept"/><Choice value="Reject"/></Choices></View>"""
    ProjectStore(predicted.database).save(
        number, uid="1", label_config=config, hostname="http://127.0.0.1:1", extra_params={}
    )
    assert "are no verdict" in text_of(predicted.client, f"/pages/projects/{number}")


# --- promotions in use, and what to label next


@EACH_DATABASE
def test_a_version_that_was_taken_back_is_shown_with_the_reason(predicted: Backend) -> None:
    number = project_of(predicted)
    name = add_version(predicted)
    with predicted.database.writing() as session:
        row = session.scalars(select(PromptVersionRow).where(PromptVersionRow.name == name)).one()
        set_champion(session, number, row, by="refinement 1", revocable=True)
    page = text_of(predicted.client, f"/pages/projects/{number}/versions")
    assert f"In use since the promotion of <code>{name}</code>" in page
    assert "Too few videos to compare" in page
    assert "A version that does worse is taken back by itself." in page

    versions = predicted.service.line.versions
    (promotion,) = versions.promotions(number)
    assert versions.take_back(number, promotion.id, "in use it does worse <b>than</b> the preset") == "preset"
    for path in ("", "/versions"):
        page = text_of(predicted.client, f"/pages/projects/{number}{path}")
        assert f"<code>{name}</code> was taken back by itself: in use it does worse &lt;b&gt;than" in page
    assert "Promotions</h2>" in page
    versions.promote(number, name, by="a person, on the page")
    page = text_of(predicted.client, f"/pages/projects/{number}/versions")
    assert "A person chose this version: it is not taken back by itself." in page
    assert "</code> was taken back by itself" not in page


def test_what_to_label_next_is_listed_and_written_only_on_request(predicted: Backend) -> None:
    number = project_of(predicted)
    path = f"/pages/projects/{number}/next"
    page = text_of(predicted.client, path)
    order = predicted.service.next_tasks.order(number)
    assert order.tasks
    assert order.tasks[0].reasons[0] in page
    assert f"The first {len(order.tasks)} of {order.open} tasks" in page

    def mode() -> OrderMode:
        known = ProjectStore(predicted.database).find(number)
        assert known is not None
        return known.labelling_order

    assert predicted.client.post(path, data={"write": "on"}).status_code == 403
    assert mode() is OrderMode.OFF
    form = {"csrf_token": token_in(page), "write": "on"}
    assert predicted.client.post(path, data=form).status_code == 303
    assert mode() is OrderMode.ON
    page = text_of(predicted.client, path)
    assert "Label Tasks As Displayed" in page
    assert predicted.client.post(path, data={"csrf_token": token_in(page), "write": "off"}).status_code == 303
    assert mode() is not OrderMode.ON


# --- words


@EACH_DATABASE
def test_words_are_written_changed_and_removed(predicted: Backend) -> None:
    number = project_of(predicted)
    path = f"/pages/projects/{number}/words"
    page = text_of(predicted.client, path)
    assert "No word is replaced" in page

    def send(where: str, **fields: str) -> int:
        token = token_in(text_of(predicted.client, path))
        return predicted.client.post(where, data={"csrf_token": token, **fields}).status_code

    assert send(path, term="Blick", meaning="fruit") == 303
    page = text_of(predicted.client, path)
    assert "<td>blick</td>" in page
    assert "<td>fruit</td>" in page
    line = predicted.service.line
    first = line.champion(number)
    assert first is not None
    assert first.origin == "edited"
    assert f"<code>{first.name}</code>" in page
    assert "blick → fruit" in text_of(predicted.client, f"/pages/projects/{number}/versions")

    assert send(path, term="blick ", meaning="fruit") == 303
    assert line.champion(number) == first, "nothing has changed"

    assert send(path, term="blick", meaning="apple") == 303
    assert line.glossary(line.champion(number)).rewrite("the blick") == "the apple"
    assert send(f"{path}/remove", term="blick") == 303
    assert not line.glossary(line.champion(number))
    assert line.versions.roll_back(number) != first.name
    assert line.versions.roll_back(number) == first.name


@pytest.mark.parametrize(
    ("term", "meaning"), [("", "fruit"), ("blick", "!"), ("blick", "Blick"), ("b" * 99, "x")]
)
def test_a_word_that_cannot_be_kept_is_refused(predicted: Backend, term: str, meaning: str) -> None:
    path = f"/pages/projects/{project_of(predicted)}/words"
    fields = {"csrf_token": token_in(text_of(predicted.client, path)), "term": term, "meaning": meaning}
    answer = predicted.client.post(path, data=fields)
    assert answer.status_code == 400
    assert "the entry cannot be kept" in answer.get_data(as_text=True)
    assert predicted.service.line.champion(project_of(predicted)) is None
