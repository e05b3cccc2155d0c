"""How the backend's pages look and read: every page, in a small and a large window, light and dark, by axe-core."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.models.executor import Executor
from ml_backend.settings import Settings
from ml_backend.web.app import create_app
from ml_backend.web.assemble import build_service
from tests.e2e.conftest import ARTEFACTS, LABEL_CONFIGS
from tests.support import proposal_targets
from tests.support.page_desk import FILMS, PROJECT, VERSION, fill

SIZES = {"large": (1440, 900), "small": (1280, 720)}
SERIOUS = ("serious", "critical")


@dataclass(frozen=True)
class Desk:
    """A running backend.

    Attributes:
        url: Its address.
        paths: Its pages by name.
    """

    url: str
    paths: dict[str, str]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The backend with drawn films in place of a model's answers."""
    folder = tmp_path_factory.mktemp("pages-look")
    settings = Settings(data_dir=folder / "data", local_roots=(folder / "films",), warm=False)
    service = build_service(
        settings,
        executor=Executor.local([proposal_targets.proposing], max_attempts=1),
        loader=MediaLoader(settings),
        base_version=VERSION,
        model="test-model",
    )
    fill(service, folder / "films", Path(LABEL_CONFIGS / "frames.xml").read_text(encoding="utf-8"))
    server = make_server("127.0.0.1", 0, create_app(service), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    of_project = f"/pages/projects/{PROJECT}"
    paths = {
        "overview": "/",
        "jobs": "/pages/jobs",
        "settings": "/pages/settings",
        "project": of_project,
        "proposal": "/pages/proposals/3",
        "problem": "/pages/proposals/99",
        **{
            name: f"{of_project}/{name}"
            for name in ("check", "corrections", "annotators", "words", "next", "versions", "preview")
        },
    }
    yield Desk(f"http://127.0.0.1:{server.port}", paths)
    server.shutdown()
    thread.join()
    server.server_close()
    service.close()


def open_page(browser: Browser, scheme: Literal["light", "dark"], size: str, **options: Any) -> Page:
    width, height = SIZES[size]
    return browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, **options
    ).new_page()


def show(page: Page, desk: Desk, name: str) -> None:
    """Open a page, with all of its pictures."""
    page.goto(desk.url + desk.paths[name])
    for picture in page.locator("main img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", True, timeout=60_000)
    page.evaluate("scrollTo(0, 0)")


@pytest.mark.parametrize(("scheme", "size"), [("light", "large"), ("dark", "small")])
def test_every_page_fits_its_window_and_reads_for_everybody(
    browser: Browser, desk: Desk, scheme: Literal["light", "dark"], size: str
) -> None:
    page = open_page(browser, scheme, size)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    findings: list[str] = []
    for name in desk.paths:
        show(page, desk, name)
        page.screenshot(path=ARTEFACTS / f"look-{name}-{scheme}-{size}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], f"{name} is too wide"
        for found in Axe().run(page).response["violations"]:
            nodes = [node["html"][:160] for node in found["nodes"][:3]]
            if found["impact"] in SERIOUS:
                findings.append(f"{name}: {found['id']}: {found['help']}: {nodes}")
    page.context.close()
    assert findings == []


def test_a_least_score_is_tried_on_the_page(browser: Browser, desk: Desk) -> None:
    page = open_page(browser, "light", "small")
    show(page, desk, "preview")
    slider = page.get_by_label("Least score")
    expect(page.locator(".previews li")).to_have_count(FILMS)
    slider.fill("0.55")
    expect(page.locator("[data-kept-shown]")).to_have_text("3")
    expect(page.locator("[data-kept-all]")).to_have_text("3")
    expect(page.locator(".previews .out")).to_have_count(FILMS - 3)
    expect(page.locator("code [data-least]")).to_have_text("0.55")
    slider.fill("0")
    expect(page.locator(".previews .out")).to_have_count(0)
    page.context.close()


def test_times_are_in_the_readers_zone(browser: Browser, desk: Desk) -> None:
    page = open_page(browser, "light", "small", timezone_id="Asia/Tokyo")
    page.goto(desk.url + desk.paths["annotators"])
    expect(page.locator("footer")).to_have_text("Times are in Asia/Tokyo.")
    expect(page.locator(".days tbody tr")).to_have_count(2)
    expect(page.locator(".days")).to_contain_text("2026-11-23")
    page.goto(desk.url + desk.paths["corrections"])
    expect(page.locator("footer")).to_have_text("Times are in Asia/Tokyo.")
    page.context.close()


def test_a_reviewer_returns_and_accepts(browser: Browser, desk: Desk) -> None:
    page = open_page(browser, "light", "large")
    page.goto(desk.url + desk.paths["corrections"])
    row = page.locator("tr", has_text="annotation 72,")
    row.locator("summary").click()
    row.get_by_label("What annotation 72 needs").fill("the left edge")
    row.get_by_role("button", name="Return it").click()
    aside = page.locator("tr", has_text="the left edge")
    expect(aside).to_contain_text("returned")
    expect(page.locator("tr", has_text="annotation 72,")).to_have_count(0)
    aside.get_by_role("button", name="Accept").click()
    expect(page.locator("tr", has_text="annotation 72,").locator(".badge.accepted").last).to_be_visible()
    page.context.close()
