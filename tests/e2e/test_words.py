"""The walk of a team with a word of its own: type it, correct five tasks, *Start training*, and it is understood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from benchmarks.refinement.presets import with_recipe
from ml_backend.demo.servers import BackendServer, LabelStudioServer, free_port
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.region_masks import page_masks
from ml_backend.label_studio.task import ORDER_KEY
from steerseg.demo.catalogue import GROUP_NOUNS
from steerseg.demo.dataset import render_scene
from steerseg.demo.sprites import load_atlas, load_catalogue
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.video import write_video
from tests.e2e.conftest import ARTEFACTS, LABEL_CONFIGS, PRESET, commands_of
from tests.support.label_studio import LabelingPage, ModelPage, until

WORD, MEANT = "blick", "fruit"
CORRECTED, LEFT = 5, 1
"""Tasks that are corrected, and tasks that nobody annotates."""

# How words are learned, tried and accepted is the preset's own; what is trained besides is short, and no matter here.
RECIPE = {
    "training": {"steps": 2, "warmup": 1},
    "batch": 2,
    "frames_per_sample": 1,
    "pictures": 2,
    "tokens": 4,
    "folds": 2,
}
REPLAY = {"source": "sprites", "training": 1, "held_out": 1}


@dataclass(frozen=True)
class Clip:
    """A clip of two objects, one of which the team calls by its word.

    Attributes:
        path: The video.
        truth: (T, H, W) bool, that object.
    """

    path: Path
    truth: NDArray[np.bool_]


@pytest.fixture(scope="module")
def words_backend(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackendServer]:
    """A backend that trains for moments; it decides about words as the preset does."""
    preset = with_recipe(PRESET, RECIPE, tmp_path_factory.mktemp("preset"), replay=REPLAY)
    server = BackendServer(tmp_path_factory.mktemp("words"), free_port(), label_studio, preset=str(preset))
    with server.process():
        yield server


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """The first clips that show exactly one object of the word's kind, whatever the models make of them."""
    folder = tmp_path_factory.mktemp("word-clips")
    world = WorldSpec(
        sizes=((192, 320),), frames=(10, 10), objects=(2, 2), lookalike=0, tint=0, overlap=0, pan=0
    )
    catalogue, atlas = load_catalogue(world.styles), load_atlas(world.styles)
    groups = {group for group, nouns in GROUP_NOUNS.items() if MEANT in nouns}
    found: list[Clip] = []
    seed = 0
    while len(found) < CORRECTED + LEFT:
        seed += 1
        scene = sample_scene(np.random.default_rng(seed), world)
        own = [place for place, sprite in enumerate(scene.sprite) if catalogue.groups[sprite] in groups]
        if len(own) == 1:
            frames, objects = render_scene(scene, atlas)
            path = folder / f"{len(found)}.mp4"
            write_video(path, iter(frames), scene.fps)
            found.append(Clip(path, np.asarray(objects) == own[0] + 1))
    return found


@pytest.fixture(scope="module")
def project(words_backend: BackendServer, client: LabelStudioClient, clips: list[Clip]) -> int:
    """A project with masks on frames, whose tasks have no expression yet."""
    steerseg_backend = commands_of(words_backend)
    root = words_backend.label_studio.files_root
    media = root / "word-media"
    media.mkdir()
    title = "A team's word"
    config = str(LABEL_CONFIGS / "frames.xml")
    steerseg_backend("connect", "--title", title, "--label-config", config, "--storage-path", str(media))
    found = client.projects.find(title)
    assert found is not None
    steerseg_backend(
        *("import", str(found["id"]), *(str(clip.path) for clip in clips)),
        *("--document-root", str(root), "--media-dir", str(media)),
    )
    return int(found["id"])


def shown(labeling: LabelingPage, truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The masks that would be submitted now, (T, H, W)."""
    masks = np.zeros_like(truth)
    for mask in page_masks(labeling.of_type("brushlabels")):
        masks[mask.page] |= mask.mask
    return masks


def overlap(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """IoU over all frames, in [0, 1]."""
    return float((masks & truth).sum() / (masks | truth).sum())


def inside(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """The point of a mask that is nearest to its middle, in fractions of the page."""
    points = np.argwhere(mask)
    row, column = points[np.square(points - points.mean(0)).sum(1).argmin()]
    return (float(column) + 0.5) / mask.shape[1], (float(row) + 0.5) / mask.shape[0]


def test_a_teams_word_is_understood_after_five_corrections(
    labeling: LabelingPage,
    model_page: ModelPage,
    project: int,
    clips: list[Clip],
    client: LabelStudioClient,
    words_backend: BackendServer,
) -> None:
    expression = f"the {WORD}"
    tasks = sorted(int(task["id"]) for task in client.tasks.of_project(project))
    assert len(tasks) == CORRECTED + LEFT

    for number, (task, clip) in enumerate(zip(tasks[:CORRECTED], clips, strict=False)):
        labeling.open(project, task, predicted=False)
        labeling.switch_on_auto_annotation()
        labeling.ask(expression)
        assert "read as" not in labeling.status()
        proposed = overlap(shown(labeling, clip.truth), clip.truth)
        labeling.page.screenshot(path=ARTEFACTS / f"words-{number}-misunderstood.png")
        assert proposed < 0.5, "the models do not know the word"
        labeling.mark("positive", *[inside(clip.truth[0])] * 2)
        until(lambda: "1 click" in labeling.status(), "an answer to the click", limit=30)
        corrected = overlap(shown(labeling, clip.truth), clip.truth)
        assert corrected > 0.5, f"task {task} is not corrected: {labeling.status()}"
        labeling.choose("Accept")
        labeling.page.screenshot(path=ARTEFACTS / f"words-{number}-corrected.png")
        labeling.submit()

    def ended() -> list[dict[str, Any]]:
        """The refinements that have ended, the newest first."""
        answer = requests.get(f"{words_backend.url}/projects/{project}/refinement", timeout=30).json()
        history: list[dict[str, Any]] = answer["history"]
        return history

    model_page.open(project)
    model_page.start_training()
    (refinement,) = until(ended, "the gate's decision", limit=600)
    assert refinement["state"] == "promoted", (refinement["reason"], refinement["notes"])

    page = model_page.page
    page.goto(f"{words_backend.url}/pages/projects/{project}/words")
    page.screenshot(path=ARTEFACTS / "words-page.png")
    row = page.get_by_role("row").filter(has_text=WORD)
    assert row.get_by_role("cell").all_inner_texts()[:2] == [WORD, MEANT]

    labeling.open(project, tasks[-1], predicted=False)
    labeling.switch_on_auto_annotation()
    labeling.ask(expression)
    assert f"“{expression}”, read as “the {MEANT}”," in labeling.status()
    labeling.page.screenshot(path=ARTEFACTS / "words-understood.png")
    assert overlap(shown(labeling, clips[-1].truth), clips[-1].truth) > 0.5


def test_the_labelling_order_is_a_column_of_the_data_manager(
    labeling: LabelingPage, project: int, client: LabelStudioClient, words_backend: BackendServer
) -> None:
    task = max(int(task["id"]) for task in client.tasks.of_project(project))
    labeling.open(project, task, predicted=False)
    labeling.switch_on_auto_annotation()
    labeling.ask(f"the {WORD}")

    page = labeling.page
    page.goto(f"{words_backend.url}/pages/projects/{project}/next")
    page.on("dialog", lambda dialog: dialog.accept())
    page.screenshot(path=ARTEFACTS / "order-page.png")
    page.get_by_role("button", name="Write it into the tasks").click()

    def written() -> dict[int, str]:
        tasks = list(client.tasks.of_project(project))
        return {int(task["id"]): task["data"][ORDER_KEY] for task in tasks if ORDER_KEY in task["data"]}

    order = until(written, "an order in the tasks' data", limit=60)
    assert order[task].startswith("001 · ")
    page.goto(f"{labeling.server.url}/projects/{project}/data")
    page.get_by_text(order[task]).first.wait_for()
    page.screenshot(path=ARTEFACTS / "order-column.png")

    page.goto(f"{words_backend.url}/pages/projects/{project}/next")
    page.get_by_role("button", name="Remove it from the tasks").click()
    until(lambda: not written(), "tasks as they were", limit=60)
