"""What a person does in Label Studio: through its API, and in its pages by a real browser."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Browser, Locator, Page, Playwright

from ml_backend.demo.servers import LabelStudioServer
from ml_backend.label_studio.client import LabelStudioClient

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT = 60_000.0
"""Milliseconds that the browser may take for one thing; far beyond what an idle machine needs."""

# A task is shown, and a moment later once more with a new annotation: what is typed between is lost.
_SETTLED = """() => {
  const store = window.Htx, now = performance.now();
  const id = store?.task && !store.isLoading && store.annotationStore?.selected?.id;
  if (!id || window.shownAnnotation?.id !== id) window.shownAnnotation = {id, since: now};
  return id && now - window.shownAnnotation.since > 2000; }"""

T = TypeVar("T")


def until(ask: Callable[[], T], what: str, limit: float = 180.0) -> T:
    """Ask again and again until the answer is truthy; fail with ``what`` after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {limit:.0f} s for {what}; last answer: {answer!r}"
        time.sleep(0.5)


def settled(ask: Callable[[], T], what: str, limit: float = 180.0) -> T:
    """The same, until two answers in a row are alike: what comes one by one has come as a whole then."""
    earlier: list[T] = []

    def look() -> T | None:
        answer = ask()
        alike = bool(answer) and earlier == [answer]
        earlier[:] = [answer]
        return answer if alike else None

    found = until(look, what, limit)
    assert found is not None
    return found


# --- through the API


def retrieve_predictions(client: LabelStudioClient, project: int) -> None:
    """What the Data Manager's button *Retrieve Predictions* does for all tasks."""
    client.request(
        "POST",
        "/api/dm/actions",
        params={"id": "retrieve_tasks_predictions", "project": project},
        json={"selectedItems": {"all": True, "excluded": []}, "ordering": []},
        timeout=300,
    )


def predictions_of(client: LabelStudioClient, project: int) -> dict[int, list[dict[str, Any]]]:
    """The predictions of every task of a project, in the order in which they were stored."""
    return {
        int(task["id"]): sorted(client.predictions.of_task(int(task["id"])), key=lambda p: p["id"])
        for task in client.tasks.of_project(project)
    }


def wait_for_predictions(
    client: LabelStudioClient, project: int, limit: float = 600.0
) -> dict[int, list[dict[str, Any]]]:
    """Wait until every task has a prediction; those beyond the time limit of a request are pushed later."""

    def all_there() -> dict[int, list[dict[str, Any]]]:
        found = predictions_of(client, project)
        return found if found and all(found.values()) else {}

    return settled(all_there, f"predictions of all tasks of project {project}", limit)


# --- in a browser


def launch(playwright: Playwright) -> Browser | None:
    """Start Chromium: ``CHROMIUM``, the system's, or Playwright's own; ``None`` where there is none."""
    named = environ.get("CHROMIUM")
    candidates: Iterable[str | None] = [named] if named else map(shutil.which, BROWSERS)
    path = next((found for found in candidates if found and Path(found).exists()), None)
    if path is None and not Path(playwright.chromium.executable_path).exists():
        return None
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))


def sign_in(page: Page, server: LabelStudioServer) -> None:
    """Sign in by the form."""
    page.goto(f"{server.url}/user/login")
    page.fill("input[name=email]", server.user)
    page.fill("input[name=password]", server.password)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"^(?!.*/user/login).*$"))


@dataclass
class LabelingPage:
    """The labelling page of one task, opened in the browser of a signed-in person."""

    page: Page
    server: LabelStudioServer

    def open(self, project: int, task: int, *, predicted: bool = True) -> None:
        """Open a task as by a click in the project's list, and wait for its prediction if it has one."""
        # The list first: directly after a project is made, a deep link may come without predictions.
        self.page.goto(f"{self.server.url}/projects/{project}/data")
        self.page.wait_for_selector(".lsf-table, [class*='table']")
        self.page.goto(f"{self.server.url}/projects/{project}/data?task={task}")
        self.page.wait_for_function(_SETTLED)
        if predicted:
            self.page.wait_for_function("window.Htx.annotationStore.selected.regions.length > 0")
        self.canvas.wait_for()

    @property
    def canvas(self) -> Locator:
        """The picture that one draws on."""
        return self.page.locator("canvas").first

    def result(self) -> list[dict[str, Any]]:
        """What would be submitted now."""
        found = self.page.evaluate("window.Htx.annotationStore.selected.serializeAnnotation()")
        assert isinstance(found, list)
        return found

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The regions of one type that would be submitted now."""
        return [region for region in self.result() if region["type"] == kind]

    def listed(self) -> int:
        """How many regions the list at the right shows without scrolling."""
        return self.page.locator(".lsf-outliner-item").count()

    def drawn_pixels(self) -> int:
        """How many pixels of the drawing layers are not transparent on the page in view."""
        count = self.page.evaluate(
            """() => Array.from(document.querySelectorAll('canvas')).reduce((sum, canvas) => {
                 if (!canvas.width || !canvas.height) return sum;
                 const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
                 for (let i = 3; i < pixels.length; i += 4) if (pixels[i]) sum += 1;
                 return sum; }, 0)"""
        )
        return int(count)

    def turn_page(self) -> None:
        """Go to the next frame."""
        self.page.locator(".lsf-pagination__btn_arrow-right").first.click()

    def wait_for_page(self, index: int) -> None:
        """Wait until the frame of this 0-based index is in view."""
        self.page.wait_for_function(
            "index => Array.from(window.Htx.annotationStore.selected.objects)"
            ".some(object => object.currentImage === index)",
            arg=index,
        )

    def use_tool(self, name: str) -> None:
        """Choose a tool beside the picture, such as ``brush-tool``."""
        self.page.get_by_label(name, exact=True).first.click()

    def selected_tool(self) -> str:
        """The tool in use, such as ``KeyPointTool-dynamic``; empty without one."""
        name = self.page.evaluate(
            "window.Htx.annotationStore.selected.objects[0].getToolsManager().findSelectedTool()?.fullName ?? ''"
        )
        return str(name)

    def switch_on_auto_annotation(self) -> None:
        """Switch on *Auto-Annotation* and, where it is offered, *Auto-Accept Suggestions*."""
        for name in ("bottombar-auto-annotation-toggle", "bottombar-auto-accept-toggle"):
            toggle = self.page.get_by_test_id(name)
            if name.endswith("accept-toggle") and not toggle.count():
                continue
            if not toggle.is_checked():
                toggle.locator("xpath=ancestor::label | ..").first.click()
            assert toggle.is_checked()

    def type_expression(self, text: str) -> None:
        """Type into the first text field and press Enter."""
        field = self.page.get_by_label("TextArea Input").first
        field.fill(text)
        field.press("Enter")

    def ask(self, text: str) -> None:
        """Type an expression, and again while the backend says that it is still working on it."""
        expression = text.partition(": ")[2] or text  # behind the name of an object
        for _ in range(5):
            with self.page.expect_response(
                lambda response: "interactive-annotating" in response.url, timeout=2 * WAIT
            ):
                self.type_expression(text)
            self.page.wait_for_timeout(1000)  # the answer is put on the page after it has arrived
            told = until(
                lambda: (
                    (status := self.status())
                    and (f"“{expression}”" in status or status.startswith("Still working"))
                    and status
                ),
                f"a status about “{text}”",
                limit=30,
            )
            if f"“{expression}”" in str(told):
                return
        raise AssertionError(f"the backend still works on “{text}”: {self.status()}")

    def answered(self, act: Callable[[], None]) -> None:
        """Do something that asks the backend, and wait until its answer is on the page."""
        with self.page.expect_response(
            lambda response: "interactive-annotating" in response.url, timeout=2 * WAIT
        ):
            act()
        self.page.wait_for_timeout(1000)

    def mark(self, label: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Click, or draw a box, with the Auto-Detect tool; Ctrl draws over regions in place of selecting them.

        Args:
            label: ``positive``, ``negative`` or ``box``.
            start: Where the mouse is pressed, in fractions of the picture's width and height.
            end: Where it is released: the same place for a click.
        """
        self.page.get_by_text(label, exact=True).first.click()
        # The editor remembers the tool of the task before: each M takes the next one.
        wanted = f"{'Rectangle' if label == 'box' else 'KeyPoint'}Tool-dynamic"
        for _ in range(6):
            if self.selected_tool() == wanted:
                break
            self.page.keyboard.press("m")
            self.page.wait_for_timeout(300)
        assert self.selected_tool() == wanted

        def draw() -> None:
            self.page.keyboard.down("Control")
            self.drag(start, end)
            self.page.keyboard.up("Control")

        def click() -> None:
            box = self.canvas.bounding_box()
            assert box is not None
            self.page.keyboard.down("Control")
            self.page.mouse.click(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
            self.page.keyboard.up("Control")

        self.answered(click if start == end else draw)

    def texts(self, control: str) -> list[str]:
        """What stands in a text field."""
        return [
            text
            for region in self.of_type("textarea")
            if region["from_name"] == control
            for text in region["value"]["text"]
        ]

    def status(self) -> str:
        """What the backend says on the page; empty where it said nothing."""
        return " ".join(self.texts("status"))

    def select_region(self, index: int = 0) -> None:
        """Select a region in the list."""
        self.page.locator(".lsf-outliner-item").nth(index).click()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse over the picture, between points given as fractions of width and height."""
        box = self.canvas.bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        self.page.mouse.move(*places[1], steps=10)
        self.page.mouse.up()

    def choose(self, verdict: str) -> None:
        """Choose a verdict."""
        self.page.locator("label", has_text=verdict).first.click()

    def submit(self) -> dict[str, Any]:
        """Submit, and return the stored annotation."""
        with self.page.expect_response(
            lambda response: response.request.method == "POST" and "/annotations" in response.url
        ) as stored:
            self.page.get_by_role("button", name="Submit").click()
        assert stored.value.ok, f"{stored.value.status}: {stored.value.text()[:500]}"
        annotation = stored.value.json()
        assert isinstance(annotation, dict)
        return annotation


@dataclass
class ModelPage:
    """*Settings › Model* of a project."""

    page: Page
    server: LabelStudioServer

    def open(self, project: int) -> None:
        """Open it, and wait for the connected model."""
        self.page.goto(f"{self.server.url}/projects/{project}/settings/ml")
        self.page.get_by_text("Connected", exact=True).first.wait_for()

    def start_training(self) -> None:
        """Choose *Start Training* from the model's menu, and press the button."""
        self.page.get_by_label("Machine learning model options").click()
        self.page.get_by_text("Start Training", exact=True).click()
        button = self.page.get_by_role("button", name="Start Training")
        with self.page.expect_response(
            lambda response: response.request.method == "POST" and response.url.endswith("/train")
        ) as asked:
            button.click()
        assert asked.value.ok, f"{asked.value.status}: {asked.value.text()[:500]}"
        self.page.get_by_text("Request Sent!").wait_for()
