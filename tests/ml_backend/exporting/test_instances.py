"""Two instances of one class keep apart in every format, and a rejected page has no mask in any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.database.projects import ProjectStore
from ml_backend.exporting.command import Exporter, ExportOptions, ExportReport
from ml_backend.exporting.labelled import sequences
from ml_backend.models.executor import Executor, ModelExecutor
from steerseg.tracking import Tracker
from tests.support import mask_targets
from tests.support.annotation_samples import (
    FRAMES_DATA,
    PAGES,
    annotation,
    event_body,
    frames_config,
    mask_regions,
    square,
)
from tests.support.completing import Completing

CONFIG = frames_config().replace("object 1", "zebra").replace("object 2", "apple")
CONFIG = CONFIG.replace('name="verdict"', 'name="verdict" perItem="true"')
REJECTED = 4


def no_tracker() -> Tracker:
    raise AssertionError("nothing is to be filled here")


def drawn(stem: str, x: int) -> list[dict[str, Any]]:
    """A series of squares that nobody proposed."""
    regions = mask_regions({page: square(x) for page in range(PAGES)}, proposed=False, label="zebra")
    return [{**region, "id": f"{stem}-p{page}"} for page, region in enumerate(regions)]


@pytest.fixture(scope="module")
def completing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Completing]:
    executor: ModelExecutor = Executor.local([mask_targets.masking])
    made = Completing(tmp_path_factory.mktemp("instances"), executor)
    ProjectStore(made.database).save(
        1, uid="1", label_config=CONFIG, hostname="http://127.0.0.1:1", extra_params={}
    )
    reject = {
        "id": "v",
        "from_name": "verdict",
        "to_name": "frames",
        "type": "choices",
        "item_index": REJECTED,
    }
    results = [*drawn("left", 4), *drawn("right", 40), {**reject, "value": {"choices": ["Reject"]}}]
    body = event_body("ANNOTATION_CREATED", annotation(results), config=CONFIG)
    made.receive([{**body, "task": {"id": 5, "data": FRAMES_DATA}}])
    made.ingestor.catch_up()
    made.completer.complete_all(patiently=False)
    yield made
    made.completer.close()
    executor.close()
    made.close()


def export(completing: Completing, folder: Path, name: str, **options: Any) -> ExportReport:
    refresher = CorrectionRefresher(completing.ingestor, completing.completer)
    exporter = Exporter(completing.settings, completing.database, completing.media, refresher, no_tracker)
    return exporter.export(1, ExportOptions(name, folder, **options))


def test_neither_has_words_and_both_are_exported(completing: Completing) -> None:
    corrections = completing.corrections.corrections(1)
    assert [one.object for one in corrections] == ["zebra", "zebra #2"]
    assert [one.expression for one in corrections] == ["", ""]
    assert all(one.notes for one in corrections)
    (sequence,) = sequences(corrections, 0.5)
    assert [one.category for one in sequence.objects] == ["zebra", "zebra"]
    assert sequence.undecided() == [REJECTED]


def test_coco(completing: Completing, tmp_path: Path) -> None:
    report = export(completing, tmp_path / "out", "coco")
    assert [object_.name for object_ in report.sequences[0].objects] == ["zebra", "zebra #2"]
    assert [object_.rejected for object_ in report.sequences[0].objects] == [{REJECTED}] * 2
    notes = [warning for warning in report.warnings if "no refinement learns from it" in warning]
    assert len(notes) == 2
    assert all(note.startswith("task 5, annotation ") for note in notes)
    coco = COCO(tmp_path / "out" / "annotations.json")
    found = coco.loadAnns(coco.getAnnIds())
    assert len({one["track_id"] for one in found}) == 2
    assert len(found) == 2 * (PAGES - 1)
    assert {tuple(one["bbox"][2:]) for one in found} == {(10.0, 10.0)}


@pytest.mark.parametrize("name", ["youtube-vos", "davis"])
def test_video_object_segmentation(completing: Completing, tmp_path: Path, name: str) -> None:
    export(completing, tmp_path / "out", name)
    pictures = sorted(
        path
        for path in (tmp_path / "out").rglob("*.png")
        if "Annotations" in path.parts and "task" in str(path)
    )
    numbers = [set(np.unique(np.asarray(Image.open(path)))) for path in pictures]
    assert len(numbers) >= PAGES - 1
    assert max(len(one & {1, 2}) for one in numbers) == 2


def test_nobody_is_asked_for_what_has_no_words(completing: Completing, tmp_path: Path) -> None:
    export(completing, tmp_path / "out", "youtube-vos", images=False)
    content = json.loads((tmp_path / "out/meta_expressions/train/meta_expressions.json").read_text())
    assert content["videos"]["task-000005"]["expressions"] == {}
    meta = json.loads((tmp_path / "out/train/meta.json").read_text())
    assert sorted(meta["videos"]["task-000005"]["objects"]) == ["1", "2"]


def test_mots(completing: Completing, tmp_path: Path) -> None:
    export(completing, tmp_path / "out", "mots")
    (labels,) = (tmp_path / "out").rglob("gt.txt")
    frames: dict[int, set[str]] = {}
    for line in labels.read_text().splitlines():
        frame, identity, *_ = line.split()
        frames.setdefault(int(frame) - 1, set()).add(identity)
    rejected = frames.pop(REJECTED)
    assert rejected == {"10000"}, "nobody knows what is there"
    assert list(frames.values()) == [{"1001", "1002"}] * (PAGES - 1)


def test_yolo(completing: Completing, tmp_path: Path) -> None:
    export(completing, tmp_path / "out", "yolo-seg")
    labels = sorted((tmp_path / "out").rglob("labels/**/*.txt"))
    assert len(labels) == PAGES - 1
    classes = [[line.split()[0] for line in path.read_text().splitlines()] for path in labels]
    assert classes == [["0", "0"]] * (PAGES - 1)
