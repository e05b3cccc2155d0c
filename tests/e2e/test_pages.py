"""The backend's own pages in a browser: over a server with the preset `demo` that was asked as Label Studio asks."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect
from werkzeug.serving import make_server

from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.exporting.command import Exporter, ExportOptions, load_tracker
from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.refinement.gate import Comparison, GateMetrics
from ml_backend.refinement.version_store import NewVersion
from ml_backend.service import Service
from ml_backend.settings import Settings
from ml_backend.web.app import create_app
from ml_backend.web.assemble import create_service
from steerseg.demo.dataset import render_scene
from steerseg.demo.language import referrals
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.evaluation.datasets import open_dataset
from steerseg.masks import decode_rle
from steerseg.presets import find_preset, load_preset
from steerseg.prompt_files import with_glossary
from steerseg.statistics import Interval
from steerseg.words.glossary import Entry, Glossary
from tests.e2e.conftest import ARTEFACTS, LABEL_CONFIGS, PRESET

PROJECT = 7
AUTH = ("ann", "let me in")
LAPTOP = {"width": 1366, "height": 768}
TASKS = 3
PATIENCE = 240.0  # seconds: the models answer in their own time on a busy machine


@dataclass(frozen=True)
class Desk:
    """A running backend whose tasks were predicted and annotated.

    Attributes:
        url: Its address.
        service: The service behind it.
        tasks: The data of its tasks by number.
        version: Name of a candidate.
    """

    url: str
    service: Service
    tasks: dict[int, dict[str, Any]]
    version: str

    def get(self, path: str) -> Any:
        """An answer of the API."""
        return requests.get(self.url + path, auth=AUTH, timeout=60).json()

    def post(self, path: str, body: Any) -> Any:
        """The same, of what changes something."""
        answer = requests.post(self.url + path, json=body, auth=AUTH, timeout=PATIENCE)
        assert answer.ok, answer.text
        return answer.json()

    def predict(self, task: int, expression: str | None = None) -> Any:
        """Ask for a task's predictions as Label Studio does, perhaps for other words than the task's own."""
        data = self.tasks[task] | ({} if expression is None else {"expression": expression})
        body = {
            "tasks": [{"id": task, "data": data}],
            "project": f"{PROJECT}.1",
            "label_config": label_config(),
            "params": {"context": None},
        }
        return self.post("/predict", body)["results"][0]


def label_config() -> str:
    return (LABEL_CONFIGS / "frames.xml").read_text(encoding="utf-8")


def until(done: Callable[[], bool], pause: float = 0.2) -> None:
    """Wait for something that the backend does by itself."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(pause)


def films(folder: Path) -> dict[int, dict[str, Any]]:
    """Tasks of short clips of two objects each, with an expression."""
    world = WorldSpec(
        sizes=((192, 320),), frames=(16, 16), objects=(2, 2), lookalike=0, tint=0, overlap=0, pan=0
    )
    atlas = load_atlas(world.styles)
    tasks: dict[int, dict[str, Any]] = {}
    seed = 0
    while len(tasks) < TASKS:
        seed += 1
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, world)
        named = [r for r in referrals(scene, rng, kinds=("explicit",)) if r.expression == f"the {r.name}"]
        if not named:
            continue
        number = 21 + len(tasks)
        pages = folder / str(number)
        pages.mkdir(parents=True)
        files = []
        for index, frame in enumerate(render_scene(scene, atlas)[0]):
            files.append(str(pages / f"{index:05d}.jpg"))
            Image.fromarray(frame).save(files[-1], quality=92)
        tasks[number] = {"frames": files, "fps": scene.fps, "stride": 1, "expression": named[0].expression}
    return tasks


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The backend after some work: three predicted tasks, two corrections, one set aside, one candidate."""
    folder = tmp_path_factory.mktemp("pages")
    tasks = films(folder / "films")
    settings = Settings(
        data_dir=folder / "data",
        preset=PRESET,
        local_roots=(folder / "films",),
        basic_auth_username=AUTH[0],
        basic_auth_password=AUTH[1],
        webhook_secret="hush hush",
    )
    service = create_service(settings)
    server = make_server("127.0.0.1", 0, create_app(service), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = Desk(f"http://127.0.0.1:{server.port}", service, tasks, "")
    try:
        fill(made)
        yield Desk(made.url, service, tasks, add_candidate(service))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        service.close()


def fill(desk: Desk) -> None:
    """Predict every task and submit annotations: one as proposed, one with two pages erased, one empty."""
    desk.post(
        "/setup",
        {
            "project": f"{PROJECT}.1",
            "schema": label_config(),
            "hostname": "http://127.0.0.1:9",
            "access_token": "0" * 40,
        },
    )
    for number, (task, data) in enumerate(desk.tasks.items()):
        answer = desk.predict(task)
        best = answer[-1] if isinstance(answer, list) else answer
        result = [region for region in best["result"] if region["type"] == "brushlabels"]
        assert len(result) > 4
        kept = (result, result[:3] + result[5:], [])[number]
        annotation = {
            "id": 70 + number,
            "task": task,
            "result": [region | {"origin": "prediction"} for region in kept],
            "was_cancelled": False,
            "created_at": "2026-11-22T15:00:00.000000Z",
            "updated_at": "2026-11-22T15:01:00.000000Z",
            "lead_time": 31.0 + 20 * number,
        }
        desk.post(
            "/webhook",
            {
                "action": "ANNOTATION_CREATED",
                "annotation": annotation,
                "task": {"id": task, "data": data},
                "project": {"id": PROJECT, "label_config": label_config()},
            },
        )

    def corrected() -> bool:
        counts = desk.get(f"/projects/{PROJECT}/corrections")
        return bool(counts["usable"] == 2 and counts["set_aside"] == 1)

    until(corrected)


def add_candidate(service: Service) -> str:
    """A version as a refinement leaves it; training one is another test's subject."""
    rng = np.random.default_rng(0)
    steps = np.arange(160)
    curve = 0.35 + 0.5 * np.exp(-steps / 40) + rng.normal(0, 0.03, len(steps))
    own = load_preset(find_preset(PRESET)).prompts_folder
    assert own is not None
    glossary = Glossary(entries=(Entry(term="blick", meaning="fruit", corrections=4),))
    with tempfile.TemporaryDirectory() as folder:
        digest = with_glossary(own, glossary, Path(folder))
        path = service.line.keep(Path(folder), digest)
    new = NewVersion(
        path=path,
        digest=digest,
        model=service.line.model,
        origin="refined",
        parent_id=None,
        data=[(one.id, one.revision) for one in service.corrections.corrections(PROJECT)],
        curve=curve.tolist(),
        metrics=GateMetrics(
            held_out=Comparison(8, 0.742, 0.684, Interval(0.058, 0.012, 0.101, 8)),
            regression=Comparison(12, 0.801, 0.803, Interval(-0.002, -0.008, 0.004, 12)),
        ),
        reason="better on 8 held-out videos: J&F 68.4 → 74.2, +5.8 points [+1.2, +10.1] (95% interval)",
    )
    return service.line.versions.add(PROJECT, new).name


@dataclass(frozen=True)
class Reader:
    """A person at the pages.

    Attributes:
        page: The browser's page.
        desk: The backend.
        scheme: The person's colours.
        strangers: Requests that went anywhere else.
    """

    page: Page
    desk: Desk
    scheme: str
    strangers: list[str]

    def open(self, path: str) -> None:
        """Open a page of the backend."""
        self.page.goto(self.desk.url + path)

    def keep(self, name: str) -> None:
        """Keep a picture of the whole page, and see that it fits a laptop."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"pages-{name}-{self.scheme}.png", full_page=True)
        width = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= LAPTOP["width"], f"{name} is {width} pixels wide"


def reader_of(
    browser: Browser, desk: Desk, scheme: Literal["light", "dark"]
) -> tuple[BrowserContext, Reader]:
    context = browser.new_context(
        viewport=LAPTOP,  # type: ignore[arg-type]
        color_scheme=scheme,
        http_credentials={"username": AUTH[0], "password": AUTH[1]},
    )
    page = context.new_page()
    strangers: list[str] = []
    page.on("request", lambda r: None if r.url.startswith(desk.url) else strangers.append(r.url))
    page.on("pageerror", lambda error: strangers.append(str(error)))
    page.on("console", lambda m: strangers.append(m.text) if m.type == "error" else None)
    return context, Reader(page, desk, scheme, strangers)


@pytest.fixture(params=["light", "dark"])
def reader(request: pytest.FixtureRequest, browser: Browser, desk: Desk) -> Iterator[Reader]:
    context, reader = reader_of(browser, desk, request.param)
    yield reader
    context.close()
    assert reader.strangers == [], "only the backend is asked, and nothing fails in the browser"


def test_every_page_reads_well(reader: Reader) -> None:
    page = reader.page
    reader.open("/")
    expect(page.get_by_role("heading", name="SteerSeg for Label Studio")).to_be_visible()
    expect(page.locator("#state")).to_contain_text("3 proposals")
    reader.keep("overview")

    page.get_by_role("cell", name=f"Project {PROJECT}", exact=True).get_by_role("link").click()
    expect(page.locator("tbody tr")).to_have_count(TASKS)
    reader.keep("project")

    page.locator("tbody tr td:nth-child(2) a").first.click()
    for picture in page.locator(".keyframes img").all():
        picture.scroll_into_view_if_needed()
        until(lambda p=picture: p.evaluate("image => image.complete && image.naturalWidth > 0"))
    assert page.locator(".keyframes tbody tr").count() == 4
    page.evaluate("document.querySelector('video').play()")
    until(lambda: page.evaluate("document.querySelector('video').currentTime > 0.2"))
    page.evaluate(
        "document.querySelector('video').pause(); document.querySelector('.sheet').scrollTo(0, 0); scrollTo(0, 0)"
    )
    reader.keep("proposal")

    reader.open(f"/pages/projects/{PROJECT}/corrections")
    expect(page.locator("tbody").first.locator("tr")).to_have_count(2)
    expect(page.get_by_text("the annotation shows nothing on any frame")).to_be_visible()
    reader.keep("corrections")

    reader.open("/pages/settings")
    expect(page.locator("tr", has_text="STEERSEG_WEBHOOK_SECRET")).to_contain_text("set; not shown")
    assert "hush hush" not in page.content()
    assert AUTH[1] not in page.content()
    reader.keep("settings")


def test_what_was_accepted_is_exported(desk: Desk, tmp_path: Path) -> None:
    settings = desk.service.settings
    refresher = CorrectionRefresher(desk.service.ingestor, desk.service._completer)
    exporter = Exporter(
        settings, desk.service.database, MediaLoader(settings), refresher, lambda: load_tracker(settings)
    )
    report = exporter.export(PROJECT, ExportOptions("youtube-vos", tmp_path / "out"))
    assert (len(report.sequences), report.warnings) == (2, ())
    samples = open_dataset(str(tmp_path / "out"), "train")
    assert [sample.expression for sample in samples] == [desk.tasks[task]["expression"] for task in (21, 22)]
    corrections = desk.service.corrections.corrections(PROJECT)
    for sample, correction in zip(samples, corrections, strict=True):
        masks = sample.masks()
        assert len(sample.load()) == len(masks) == correction.num_frames
        for index, rle in correction.masks.items():
            assert (masks[index] == (False if rle is None else decode_rle(rle))).all()


def test_versions_are_promoted_and_rolled_back(reader: Reader) -> None:
    page = reader.page
    page.on("dialog", lambda dialog: dialog.accept())
    reader.open(f"/pages/projects/{PROJECT}/versions")
    candidate = page.locator("article", has=page.get_by_text(reader.desk.version, exact=True))
    expect(candidate.locator("svg .curve")).to_be_visible()
    candidate.get_by_role("button", name="Promote").click()
    expect(candidate.locator(".badge.champion")).to_be_visible()
    assert reader.desk.get(f"/versions?project={PROJECT}")["current"].endswith(reader.desk.version)
    reader.keep("versions")
    page.get_by_role("button", name="Roll back").click()
    expect(
        page.locator("article", has=page.get_by_text("preset", exact=True)).locator(".badge.champion")
    ).to_be_visible()
    assert "+" not in reader.desk.get(f"/versions?project={PROJECT}")["current"]


@contextlib.contextmanager
def halted_at_work(desk: Desk) -> Iterator[None]:
    """Have the model process stand still in the middle of a job: a page may be slower than the models."""
    until(lambda: any(job["state"] == "running" for job in desk.get("/jobs")["jobs"]), pause=0.02)
    (worker,) = desk.service.executor.statuses
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def test_jobs_are_followed_while_they_run_and_cancelled(browser: Browser, desk: Desk) -> None:
    context, reader = reader_of(browser, desk, "light")
    page = reader.page
    reader.open("/pages/jobs")
    before = page.locator("tbody tr").count()
    asking = threading.Thread(target=desk.predict, args=(21, "the thing that moves"))
    asking.start()
    first = page.locator("tbody tr").first
    with halted_at_work(desk):
        # Without a reload by anybody:
        expect(page.locator("tbody tr")).to_have_count(before + 1, timeout=30_000)
        expect(first.locator(".badge")).to_have_text("running", timeout=60_000)
        expect(first).to_contain_text("the thing that moves")
        reader.keep("jobs")
        with page.expect_response(lambda response: response.url.endswith("/cancel")):
            first.get_by_role("button", name="Cancel").click()
    expect(page.locator("tbody tr").first.locator(".badge")).to_have_text("cancelled", timeout=60_000)
    asking.join()
    context.close()
    assert reader.strangers == []
