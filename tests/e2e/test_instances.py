"""An annotator labels two instances of one class in a real browser, and finds both in all five exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from ml_backend.demo.samples import Sample
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.results import instance_id
from tests.e2e.conftest import ARTEFACTS, Command, Project
from tests.support.label_studio import LabelingPage, until


def test_two_instances_of_one_class_are_labelled_and_exported(
    labeling: LabelingPage,
    classes_project: Project,
    client: LabelStudioClient,
    samples: list[Sample],
    steerseg_backend: Command,
    tmp_path: Path,
) -> None:
    data = {"frames": client.tasks.get(classes_project.first_task)["data"]["frames"]}
    (task,) = client.tasks.create(classes_project.id, [{"data": data}])
    labeling.open(classes_project.id, task, predicted=False)
    labeling.switch_on_auto_annotation()
    labeling.ask(samples[0].expression)
    labeling.page.locator("label").filter(has_text=re.compile(r"^2\W")).first.click()
    labeling.ask("the backpack")
    labeling.page.screenshot(path=ARTEFACTS / "two-instances.png")
    regions = labeling.of_type("brushlabels")
    assert {region["value"]["brushlabels"][0] for region in regions} == {"person"}
    names = {region["id"].rpartition("-f")[0] for region in regions}
    assert names == {instance_id(task, "", 0), instance_id(task, "", 1)}
    labeling.submit()

    project = str(classes_project.id)
    until(lambda: "2 usable" in steerseg_backend("corrections", project), "two usable corrections", limit=120)
    for name in ("coco", "youtube-vos", "davis", "mots", "yolo-seg"):
        steerseg_backend("export", project, "--format", name, "--output", str(tmp_path / name))
    assert instances_in_coco(tmp_path / "coco") == 2
    for name in ("youtube-vos", "davis"):
        assert objects_in_pictures(tmp_path / name) == {1, 2}
    assert tracks_in_mots(tmp_path / "mots") == 2
    assert max(lines_of_yolo(tmp_path / "yolo-seg")) == 2


def instances_in_coco(folder: Path) -> int:
    content = json.loads((folder / "annotations.json").read_text())
    assert len({one["category_id"] for one in content["annotations"]}) == 1
    return len({one["track_id"] for one in content["annotations"]})


def objects_in_pictures(folder: Path) -> set[int]:
    pictures = [path for path in folder.rglob("*.png") if "Annotations" in path.parts]
    found = {int(number) for path in pictures for number in np.unique(np.asarray(Image.open(path)))}
    return found - {0, 255}


def tracks_in_mots(folder: Path) -> int:
    lines = [line.split() for path in folder.rglob("*.txt") for line in path.read_text().splitlines()]
    return len({line[1] for line in lines if len(line) == 6})


def lines_of_yolo(folder: Path) -> list[int]:
    return [len(path.read_text().splitlines()) for path in folder.rglob("labels/**/*.txt")]
