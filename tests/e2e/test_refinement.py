"""The walk of a new user: correct a few tasks, press *Start training*, and see predictions by what was learned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ml_backend.demo.servers import BackendServer, LabelStudioServer, free_port
from ml_backend.label_studio.client import LabelStudioClient
from tests.e2e.conftest import LABEL_CONFIGS, PRESET, commands_of
from tests.support.label_studio import LabelingPage, ModelPage, predictions_of, settled, until
from tests.support.quick_refinement import quick_preset, write_clips

CORRECTED, LEFT = 3, 1
"""Tasks that are corrected, and tasks that nobody annotates."""


@pytest.fixture(scope="module")
def quick_backend(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackendServer]:
    """A backend whose refinements take moments and are promoted."""
    preset = quick_preset(PRESET, tmp_path_factory.mktemp("preset"))
    server = BackendServer(tmp_path_factory.mktemp("quick"), free_port(), label_studio, preset=str(preset))
    with server.process():
        yield server


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short clips of two different objects each, by what is to be tracked."""
    return write_clips(tmp_path_factory.mktemp("clips"), CORRECTED + LEFT)


@pytest.fixture(scope="module")
def project(quick_backend: BackendServer, client: LabelStudioClient, clips: dict[str, Path]) -> int:
    """A project with masks on frames whose tasks are predicted by the preset's own prompts."""
    steerseg_backend = commands_of(quick_backend)
    media = quick_backend.label_studio.files_root / "media"
    media.mkdir(exist_ok=True)
    title = "Refinement"
    config = str(LABEL_CONFIGS / "frames.xml")
    steerseg_backend("connect", "--title", title, "--label-config", config, "--storage-path", str(media))
    found = client.projects.find(title)
    assert found is not None
    number = str(found["id"])
    root = str(quick_backend.label_studio.files_root)
    for expression, path in clips.items():
        steerseg_backend(
            *("import", number, str(path), "--expression", expression),
            *("--document-root", root, "--media-dir", str(media)),
        )
    steerseg_backend("predict", number)
    return int(number)


def test_corrections_and_start_training_give_a_new_version_and_new_predictions(
    labeling: LabelingPage,
    model_page: ModelPage,
    project: int,
    client: LabelStudioClient,
    quick_backend: BackendServer,
) -> None:
    def versions() -> dict[str, Any]:
        answer = requests.get(f"{quick_backend.url}/versions", params={"project": str(project)}, timeout=30)
        known: dict[str, Any] = answer.json()
        return known

    before = versions()
    assert before["versions"] == [before["current"]]
    (model,) = client.backends.of_project(project)
    assert model["model_version"] == before["current"]

    tasks = sorted(predictions_of(client, project))
    for task in tasks[:CORRECTED]:
        labeling.open(project, task)
        labeling.choose("Accept")
        labeling.select_region(0)
        labeling.use_tool("brush-tool")
        labeling.drag((0.45, 0.5), (0.55, 0.55))
        labeling.submit()

    model_page.open(project)
    model_page.start_training()
    after = until(lambda: (known := versions()) != before and known, "a new version", limit=600)
    base, _, name = after["current"].partition("+")
    assert base == before["current"]
    assert name.startswith("r1-")
    assert after["versions"] == [base, after["current"]]

    # Label Studio learns of it by /setup, which it calls when a person opens the page.
    model_page.open(project)
    (model,) = client.backends.of_project(project)
    assert model["model_version"] == after["current"]

    left = tasks[CORRECTED]
    new = settled(
        lambda: [p for p in client.predictions.of_task(left) if p["model_version"] == after["current"]],
        f"the predictions of task {left} by {after['current']}",
        limit=300,
    )
    for task in tasks[:CORRECTED]:
        assert {p["model_version"] for p in client.predictions.of_task(task)} == {base}, (
            "nobody asks for it again"
        )
    labeling.open(project, left)
    best = max(new, key=lambda prediction: int(prediction["id"]))
    proposed = [region for region in best["result"] if region["type"] == "brushlabels"]
    shown = labeling.of_type("brushlabels")
    assert [region["id"] for region in shown] == [region["id"] for region in proposed]
    # Tabs name the version that they show, the middle left out.
    assert labeling.page.get_by_text(re.compile(rf"\.\.\.{after['current'][-6:]}$")).count()
    for number in range(proposed[0]["item_index"]):
        labeling.turn_page()
        labeling.wait_for_page(number + 1)
    until(labeling.drawn_pixels, "a mask by the new version", limit=30)
