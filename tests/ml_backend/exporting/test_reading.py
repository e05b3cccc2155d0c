"""An export reads the project first, and says what is not in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.cli.export import INCOMPLETE
from ml_backend.cli.main import main
from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.database.projects import ProjectStore
from ml_backend.exporting.command import Exporter, ExportOptions, ExportReport
from ml_backend.exporting.splits import Split
from ml_backend.label_studio.media_access import MediaError
from ml_backend.models.executor import Executor, ModelExecutor
from steerseg.tracking import Tracker
from tests.support import mask_targets
from tests.support.annotation_samples import (
    FRAMES_DATA,
    annotation,
    choice,
    frames_config,
    mask_regions,
    square,
)
from tests.support.backend import FakeLabelStudio
from tests.support.completing import Completing


def no_tracker() -> Tracker:
    raise AssertionError("nothing is to be filled here")


@pytest.fixture
def reading(tmp_path: Path, fake_label_studio: FakeLabelStudio) -> Iterator[Completing]:
    """A backend that has heard of nothing yet."""
    executor: ModelExecutor = Executor.local([mask_targets.masking])
    made = Completing(
        tmp_path,
        executor,
        label_studio_url=fake_label_studio.url,
        label_studio_api_key="a" * 40,
        propagate_corrections=False,
    )
    fake_label_studio.project = {"id": 1, "label_config": frames_config()}
    yield made
    made.completer.close()
    executor.close()
    made.close()


def has(fake: FakeLabelStudio, *annotations: dict[str, Any], tasks: int = 1) -> None:
    """Let Label Studio have these annotations of tasks from 5 on."""
    fake.annotations[:] = annotations
    fake.tasks[:] = [
        {"id": task, "data": FRAMES_DATA, "total_annotations": 1} for task in range(5, 5 + tasks)
    ]


def drawn(
    number: int, x: int = 20, *, task: int = 5, label: str | None = None, **fields: Any
) -> dict[str, Any]:
    regions = mask_regions({0: square(x)}, proposed=False, label=label)
    return annotation(regions, number, task=task, minute=number, **fields)


def export(reading: Completing, output: Path, format_: str = "coco", **options: Any) -> ExportReport:
    refresher = CorrectionRefresher(reading.ingestor, reading.completer)
    exporter = Exporter(reading.settings, reading.database, reading.media, refresher, no_tracker)
    return exporter.export(1, ExportOptions(format_, output, **{"images": False, **options}))


def told(report: ExportReport) -> list[str]:
    return [str(omission) for omission in report.omissions]


def test_what_was_imported_with_its_annotation_is_exported(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    has(fake_label_studio, drawn(1), drawn(2, task=6), tasks=2)
    report = export(reading, tmp_path / "out")
    assert [sequence.task_id for sequence in report.sequences] == [5, 6]
    assert report.omissions == ()
    assert report.complete


def test_a_star_counts_above_a_newer_annotation(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    has(fake_label_studio, drawn(1, 10, ground_truth=True), drawn(2, 30))
    report = export(reading, tmp_path / "out")
    assert [object_.annotation_id for object_ in report.sequences[0].objects] == [1]
    assert told(report) == ["task 5, annotation 2: annotation 1 of the same task has the ground-truth star"]
    assert report.complete


def test_a_copy_counts_once(reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path) -> None:
    copy = drawn(2)
    for region in copy["result"]:
        region["id"], region["origin"] = f"copied-{region['id']}", "prediction"
    has(fake_label_studio, drawn(1), copy, drawn(3, was_cancelled=True))
    report = export(reading, tmp_path / "out")
    assert [object_.annotation_id for object_ in report.sequences[0].objects] == [1]
    assert told(report) == ["task 5, annotation 2: it repeats annotation 1 unchanged"]
    assert report.complete


def test_a_copy_of_an_older_annotation_is_no_newer_than_that(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    copy = drawn(3, 10)
    for region in copy["result"]:
        region["id"] = f"copied-{region['id']}"
    has(fake_label_studio, drawn(1, 10), drawn(2, 30), copy)
    report = export(reading, tmp_path / "out")
    assert [object_.annotation_id for object_ in report.sequences[0].objects] == [2]
    assert told(report) == [
        "task 5, annotation 3: it repeats annotation 1 unchanged",
        "task 5, annotation 1: annotation 2 of the same task is newer",
    ]
    assert report.complete


def test_a_newer_annotation_that_cannot_be_used_is_named(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    has(fake_label_studio, drawn(1), annotation([], 2, minute=2))
    report = export(reading, tmp_path / "out")
    (line,) = told(report)
    assert line.startswith("task 5, annotation 2: the annotation shows nothing on any frame")
    assert line.endswith("annotation 1 counts in its place")
    assert not report.complete
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["complete"] is False
    assert [entry["annotation"] for entry in provenance["left_out"]] == [2]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**This dataset is incomplete.**" in card
    assert "task 5, annotation 2: the annotation shows nothing" in card


def test_a_task_without_a_usable_annotation_is_named(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    rejected = annotation([*mask_regions({0: square(20)}), choice("Reject")], 2, task=6)
    has(fake_label_studio, drawn(1), rejected, annotation([], 3, task=7), tasks=3)
    report = export(reading, tmp_path / "out")
    assert [(one.task_id, one.expected) for one in report.omissions] == [(6, True), (7, False)]
    assert not report.complete


def test_what_waits_for_its_media_is_named(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    has(fake_label_studio, drawn(1))
    export(reading, tmp_path / "first")
    has(fake_label_studio, drawn(1), drawn(2, task=6), tasks=2)
    reading.media.trouble = MediaError("the server does not answer")
    report = export(reading, tmp_path / "out")
    (omission,) = report.omissions
    assert (omission.task_id, omission.reason) == (6, "not usable yet: the server does not answer")
    assert not report.complete


def test_class_numbers_are_those_of_the_present_configuration(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    has(fake_label_studio, drawn(1, label="object 2"))
    export(reading, tmp_path / "one", "yolo-seg")
    (line,) = (tmp_path / "one/labels/train/task-000005-00000.txt").read_text().splitlines()
    assert line.startswith("1 "), "object 1 occurs nowhere, and keeps its number"
    assert '  0: "object 1"\n  1: "object 2"\n' in (tmp_path / "one/data.yaml").read_text()
    numbered = frames_config().replace('"object 2"', '"object 2" category="3"')
    fake_label_studio.project = {"id": 1, "label_config": numbered}
    export(reading, tmp_path / "two", "yolo-seg")
    (line,) = (tmp_path / "two/labels/train/task-000005-00000.txt").read_text().splitlines()
    assert line.startswith("3 ")
    assert '  2: "unused 2"\n  3: "object 2"\n' in (tmp_path / "two/data.yaml").read_text()


def test_a_label_that_the_configuration_lost_is_named(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    has(fake_label_studio, drawn(1, label="object 2"))
    fake_label_studio.project = {"id": 1, "label_config": frames_config().replace("object 2", "thing")}
    report = export(reading, tmp_path / "out")
    assert any("'object 2' is not in the labelling configuration" in warning for warning in report.warnings)


@pytest.mark.parametrize("format_", ["coco", "youtube-vos", "davis", "mots", "yolo-seg"])
def test_videos_are_divided_and_every_format_names_its_parts(
    reading: Completing, fake_label_studio: FakeLabelStudio, tmp_path: Path, format_: str
) -> None:
    tasks = 12
    has(fake_label_studio, *(drawn(n, task=5 + n) for n in range(tasks)), tasks=tasks)
    for task in fake_label_studio.tasks:
        task["data"] = {**FRAMES_DATA, "source": f"clip-{task['id'] // 2}.mp4"}
    out = tmp_path / "out"
    export(reading, out, format_, split=Split.parse("0.5/0.3/0.2"))
    sequences = json.loads((out / "provenance.json").read_text())["sequences"]
    parts = {int(name.removeprefix("task-")): told["part"] for name, told in sequences.items()}
    assert set(parts.values()) == {"train", "val", "test"}
    assert all(parts[task] == parts[task ^ 1] for task in parts if task ^ 1 in parts), "one video, one part"
    for part in ("train", "val", "test"):
        expected = sorted(f"task-{task:06d}" for task, own in parts.items() if own == part)
        assert _written(out, format_, part) == expected
    assert "| val |" in (out / "README.md").read_text()


def _written(out: Path, format_: str, part: str) -> list[str]:
    """The tasks in a part of a dataset."""
    match format_:
        case "coco":
            content = json.loads((out / "annotations" / f"instances_{part}.json").read_text())
            assert {image["video_id"] for image in content["images"]} == {v["id"] for v in content["videos"]}
            return sorted(video["name"] for video in content["videos"])
        case "youtube-vos":
            assert (out / "meta_expressions" / part / "meta_expressions.json").is_file()
            return sorted(json.loads((out / part / "meta.json").read_text())["videos"])
        case "davis":
            return sorted((out / "ImageSets" / "2017" / f"{part}.txt").read_text().split())
        case "mots":
            return sorted((out / "seqmaps" / f"{part}.txt").read_text().split()[1:])
        case _:
            assert f"{part}: images/{part}\n" in (out / "data.yaml").read_text()
            return sorted({file.name.rpartition("-")[0] for file in (out / "labels" / part).iterdir()})


def test_the_commands_status_says_that_something_is_missing(
    reading: Completing,
    fake_label_studio: FakeLabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    has(fake_label_studio, drawn(1), annotation([], 2, task=6), tasks=2)
    export(reading, tmp_path / "read")  # whose masks need no media for --no-images
    monkeypatch.setenv("STEERSEG_LABEL_STUDIO_API_KEY", "a" * 40)
    monkeypatch.setenv("STEERSEG_LABEL_STUDIO_URL", fake_label_studio.url)
    monkeypatch.setenv("STEERSEG_PROPAGATE_CORRECTIONS", "false")
    folder = str(reading.settings.data_dir)
    arguments = ["export", "1", "--format", "davis", "--no-images", "--data-dir", folder]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == INCOMPLETE
    captured = capsys.readouterr()
    assert "missing: task 6, annotation 2: the annotation shows nothing" in captured.err
    assert "--allow-incomplete" in captured.err
    assert "1 tasks, 1 objects" in captured.out
    assert main([*arguments, "--output", str(tmp_path / "accepted"), "--allow-incomplete"]) == 0
    assert "missing: task 6" in capsys.readouterr().err
    has(fake_label_studio, drawn(1))
    assert main([*arguments, "--output", str(tmp_path / "complete")]) == 0


def test_the_command_shortens_warnings_and_says_where_all_are(
    reading: Completing,
    fake_label_studio: FakeLabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    many = 53
    has(fake_label_studio, *(drawn(task, task=task) for task in range(5, 5 + many)), tasks=many)
    export(reading, tmp_path / "read")
    monkeypatch.setenv("STEERSEG_LABEL_STUDIO_API_KEY", "a" * 40)
    monkeypatch.setenv("STEERSEG_LABEL_STUDIO_URL", fake_label_studio.url)
    monkeypatch.setenv("STEERSEG_PROPAGATE_CORRECTIONS", "false")
    arguments = [
        "export",
        "1",
        "--format",
        "coco",
        "--no-images",
        "--data-dir",
        str(reading.settings.data_dir),
    ]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["warnings"]
    assert len(told) == 2 * many, "each has undecided frames, and no frame rate"
    assert lines == [
        *(f"warning: {one}" for one in told[:50]),
        f"warning: {2 * many - 50} more, which provenance.json lists",
    ]


def test_without_label_studio_the_export_says_so(reading: Completing, tmp_path: Path) -> None:
    ProjectStore(reading.database).save(
        1, uid="1", label_config=frames_config(), hostname="http://127.0.0.1:1", extra_params={}
    )
    ours, others = (mask_regions({0: square(x)}, proposed=False) for x in (20, 30))
    reading.submit(ours, 1, minute=1, ground_truth=True)
    reading.submit(others, 2, minute=2)
    reading.submit([{**region, "id": "copied"} for region in others], 3, minute=3)
    reading.ingestor._connections._settings = reading.settings.model_copy(
        update={"label_studio_api_key": None, "label_studio_url": None}
    )
    report = export(reading, tmp_path / "out")
    assert [object_.annotation_id for object_ in report.sequences[0].objects] == [1]
    line, copy, newer = told(report)
    assert "no token for its Label Studio is known" in line
    assert copy == "task 5, annotation 3: it repeats annotation 2 unchanged"
    assert newer == "task 5, annotation 2: annotation 1 of the same task has the ground-truth star"
    assert not report.complete
