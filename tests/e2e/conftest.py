"""A Label Studio, a backend with the preset `demo` and a browser, each started once for all these tests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page

from ml_backend.demo.samples import Sample, write_real_clip
from ml_backend.demo.servers import (
    BackendServer,
    LabelStudioServer,
    ServerProcess,
    find_label_studio,
    free_port,
)
from ml_backend.label_studio.client import LabelStudioClient
from steerseg.demo.dataset import load_manifest, render_scene, scene_of
from steerseg.demo.sprites import load_atlas
from steerseg.errors import ConfigError
from steerseg.video import load_video, write_video
from tests.support.label_studio import (
    WAIT,
    LabelingPage,
    ModelPage,
    retrieve_predictions,
    sign_in,
    wait_for_predictions,
)
from tests.support.requirements import missing

REPOSITORY = Path(__file__).parents[2]
LABEL_CONFIGS = REPOSITORY / "label_config"
ARTEFACTS = REPOSITORY / "artefacts" / "e2e"
"""Screenshots end up here; git ignores it."""
CLIPS = (("globe", "test-0009", 1), ("raccoon", "test-0036", 1))
"""Name of what is asked for, clip of the split *test*, and index of the expression."""
PROXY_SECONDS = 2
"""After so long Label Studio's proxy of a cloud storage ends an answer without an error; 20 where nobody sets it."""
PRESET = os.environ.get("E2E_PRESET", "demo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is an end-to-end test, and may wait for servers and models."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """A real Label Studio with an empty database."""
    try:
        command = find_label_studio(REPOSITORY)
    except ConfigError as error:
        missing(str(error))
    folder = tmp_path_factory.mktemp("label-studio")
    server = LabelStudioServer(
        folder / "data",
        folder / "files",
        free_port(),
        command=command,
        settings={"RESOLVER_PROXY_TIMEOUT": str(PROXY_SECONDS)},
    )
    with server.process():
        yield server


@pytest.fixture(scope="session")
def serving(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BackendServer, ServerProcess]]:
    """``steerseg-backend serve --preset demo`` beside it, and its process."""
    server = BackendServer(tmp_path_factory.mktemp("backend"), free_port(), label_studio, preset=PRESET)
    with server.process() as process:
        yield server, process


@pytest.fixture(scope="session")
def backend(serving: tuple[BackendServer, ServerProcess]) -> BackendServer:
    """The running backend."""
    return serving[0]


@pytest.fixture
def held_models(serving: tuple[BackendServer, ServerProcess]) -> Iterator[Callable[[], None]]:
    """The model processes stand still; call it to let them go on."""
    pid = serving[1].pid
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")).split()
    models = [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
    assert models

    def release() -> None:
        for model in models:
            os.kill(model, signal.SIGCONT)

    for model in models:
        os.kill(model, signal.SIGSTOP)
    yield release
    release()


@pytest.fixture(scope="session")
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    """Label Studio's API, with the account's legacy token."""
    connection = LabelStudioClient(label_studio.url, label_studio.token)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def samples(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Two rendered clips and the real one, each with an expression; in the first there are backpacks as well."""
    folder = tmp_path_factory.mktemp("samples")
    samples = [_rendered(folder / f"{name}.mp4", video, index) for name, video, index in CLIPS]
    real = write_real_clip(folder, label_studio.command, print)
    return samples if real is None else [*samples, real]


def _rendered(path: Path, video: str, index: int) -> Sample:
    """A clip of the split *test*, and one of its expressions."""
    manifest = load_manifest("test")
    (entry,) = (clip for clip in manifest.clips if clip.video == video)
    scene = scene_of(manifest, entry)
    frames, _ = render_scene(scene, load_atlas(manifest.world.styles))
    write_video(path, iter(frames), scene.fps)
    return Sample(path, entry.expressions[index].text)


Command = Callable[..., str]


def commands_of(backend: BackendServer) -> Command:
    """Run ``steerseg-backend`` with arguments as a person would; return what it prints."""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            backend.command(*arguments),
            env=backend.environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"steerseg-backend {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def steerseg_backend(backend: BackendServer) -> Command:
    """See :func:`commands_of`."""
    return commands_of(backend)


@dataclass(frozen=True)
class Project:
    """A connected project with imported and predicted tasks."""

    id: int
    label_config: str
    pages: dict[int, int]
    """How many frames the video of each task has."""
    predictions: dict[int, list[dict[str, Any]]]
    """By task, in the order in which they were stored."""
    version: str
    """The version that the backend names now."""

    @property
    def first_task(self) -> int:
        return min(self.predictions)


MakeProject = Callable[[str], Project]


@pytest.fixture(scope="session")
def make_project(
    client: LabelStudioClient,
    backend: BackendServer,
    steerseg_backend: Command,
    samples: list[Sample],
) -> MakeProject:
    """Connect a project, import the samples and let Label Studio retrieve their predictions.

    All by the commands that a person types, and by Label Studio's own button.
    """

    def make(config: str) -> Project:
        label_config = (LABEL_CONFIGS / config).read_text(encoding="utf-8")
        root = backend.label_studio.files_root
        media = root / "media"
        media.mkdir(exist_ok=True)
        told = steerseg_backend(
            *("connect", "--title", config, "--label-config", str(LABEL_CONFIGS / config)),
            *("--storage-path", str(media)),
        )
        assert backend.webhook_secret not in told
        assert backend.label_studio.token not in told
        found = client.projects.find(config)
        assert found is not None
        project = int(found["id"])
        for sample in samples:
            steerseg_backend(
                *("import", str(project), str(sample.path), "--expression", sample.expression),
                *("--document-root", str(root), "--media-dir", str(media)),
            )
        tasks = {int(task["id"]): task["data"] for task in client.tasks.of_project(project)}
        frames = {sample.expression: len(load_video(sample.path)) for sample in samples}
        retrieve_predictions(client, project)
        return Project(
            id=project,
            label_config=label_config,
            pages={task: frames[data["expression"]] for task, data in tasks.items()},
            predictions=wait_for_predictions(client, project),
            version=requests.get(
                f"{backend.url}/versions", params={"project": str(project)}, timeout=30
            ).json()["current"],
        )

    return make


@pytest.fixture(scope="session")
def frames_project(make_project: MakeProject) -> Project:
    """Masks on frames, by ``label_config/frames.xml``."""
    return make_project("frames.xml")


@pytest.fixture(scope="session")
def classes_project(make_project: MakeProject) -> Project:
    """Masks on frames whose labels are classes, by ``label_config/frames_classes.xml``."""
    return make_project("frames_classes.xml")


@pytest.fixture(scope="session")
def video_project(make_project: MakeProject) -> Project:
    """Box tracks on videos, by ``label_config/video.xml``."""
    return make_project("video.xml")


@pytest.fixture(scope="session")
def both_project(make_project: MakeProject) -> Project:
    """Masks and box tracks of the same videos, by ``label_config/video_and_frames.xml``."""
    return make_project("video_and_frames.xml")


@pytest.fixture(scope="session")
def signed_in(browser: Browser, label_studio: LabelStudioServer) -> Any:
    """What the browser keeps of a sign-in."""
    context = browser.new_context()
    context.set_default_timeout(WAIT)
    sign_in(context.new_page(), label_studio)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def page(browser: Browser, signed_in: Any, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page of a signed-in person; its last view is kept as a picture."""
    context = browser.new_context(storage_state=signed_in, viewport={"width": 1440, "height": 1200})
    context.set_default_timeout(WAIT)
    page = context.new_page()
    yield page
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{request.node.name}.png")
    context.close()


@pytest.fixture
def labeling(page: Page, label_studio: LabelStudioServer) -> LabelingPage:
    """The labelling page, not yet opened on a task."""
    return LabelingPage(page, label_studio)


@pytest.fixture
def model_page(page: Page, label_studio: LabelStudioServer) -> ModelPage:
    """The model's settings, not yet opened for a project."""
    return ModelPage(page, label_studio)
