"""What formats make of an object where another one, or it itself, is undecided."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml_backend.exporting.classes import ClassTable, ExportedClass
from ml_backend.exporting.command import FORMATS, _warnings
from ml_backend.exporting.formats import Export
from ml_backend.exporting.labelled import ExportedMask, ExportedObject, LabelledSequence, Provenance
from ml_backend.exporting.omissions import Omission, is_complete
from steerseg.evaluation.datasets import open_dataset
from steerseg.evaluation.metrics import score
from steerseg.evaluation.sample import Sample
from steerseg.masks import encode_rle

SIZE, FRAMES = 40, 20
NAME = "task-000001"


def square(x: int, y: int = 5, side: int = 10) -> NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def thing(number: int, visible: Iterable[int], absent: Iterable[int] = ()) -> ExportedObject:
    """An object that is decided on the given frames alone."""
    rle = encode_rle(square(2 if number == 1 else 25))
    masks = {index: ExportedMask(rle, Provenance.HUMAN, 1.0) for index in visible}
    masks |= {index: ExportedMask(None, Provenance.HUMAN, 1.0) for index in absent}
    return ExportedObject(number, number, "car", f"thing {number}", None, masks, name=f"car {number}")


class Grey:
    """As many grey pictures."""

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        return iter(np.full((FRAMES, SIZE, SIZE, 3), 99, dtype=np.uint8))

    def jpegs(self) -> Iterator[bytes]:
        for frame in self.frames():
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "JPEG")
            yield buffer.getvalue()


def export_of(*tasks: tuple[ExportedObject, ...]) -> Export:
    found = tuple(
        LabelledSequence(f"task-{number:06d}", number, cast(Any, None), FRAMES, SIZE, SIZE, 25.0, 1, objects)
        for number, objects in enumerate(tasks, start=1)
    )
    return Export(
        project_id=1,
        sequences=found,
        pictures={one.name: Grey() for one in found},
        classes=ClassTable((ExportedClass("car"),)),
        parts={"train": frozenset(one.name for one in found)},
    )


def write(format_: str, folder: Path, *tasks: tuple[ExportedObject, ...]) -> list[Omission]:
    folder.mkdir(parents=True)
    return FORMATS[format_].write(export_of(*tasks), folder)


def expressions_of(folder: Path) -> Mapping[str, Any]:
    content = json.loads((folder / "meta_expressions/train/meta_expressions.json").read_text())
    return cast(Mapping[str, Any], content["videos"])


def scored(sample: Sample, prediction: NDArray[np.bool_]) -> float:
    """J&F of the same mask on all frames."""
    truth = sample.masks()
    return score(np.broadcast_to(prediction, truth.shape).copy(), truth, sample.void()).jf


# --- scores


def test_frames_on_which_an_object_is_not_known_are_not_scored(tmp_path: Path) -> None:
    assert write("davis", tmp_path / "out", (thing(1, range(FRAMES)), thing(2, [0, 7]))) == []
    first, second = open_dataset(str(tmp_path / "out"), "train")
    assert len(first.frames) == FRAMES
    assert second.frames == ("00000", "00007")
    assert len(second.load()) == 2
    for arbitrary in (np.zeros((SIZE, SIZE), dtype=bool), square(28, 28), square(2)):
        assert scored(second, arbitrary) == 0
    assert scored(second, square(25)) == 1


def test_what_others_may_hide_is_no_part_of_a_known_object(tmp_path: Path) -> None:
    known = thing(1, range(10), absent=range(10, FRAMES))
    write("davis", tmp_path / "out", (known, thing(2, [0])))
    first, _ = open_dataset(str(tmp_path / "out"), "train")
    truth = first.masks()
    assert score(truth, truth, first.void()).jf == 1
    assert score(np.ones_like(truth), truth, first.void()).j < 0.1
    assert scored(first, square(28, 28)) == 0


def test_an_object_of_which_nothing_is_known_is_not_asked_for(tmp_path: Path) -> None:
    write("davis", tmp_path / "out", (thing(1, range(FRAMES)), thing(2, [])))
    (sample,) = open_dataset(str(tmp_path / "out"), "train")
    assert sample.expression == "thing 1"


def test_older_exports_have_the_frames_of_their_videos(tmp_path: Path) -> None:
    write("davis", tmp_path / "out", (thing(1, range(FRAMES)), thing(2, [0, 7])))
    videos = expressions_of(tmp_path / "out")
    for expression in videos[NAME]["expressions"].values():
        del expression["frames"]
    path = tmp_path / "out/meta_expressions/train/meta_expressions.json"
    path.write_text(json.dumps({"videos": videos}))
    assert [len(sample.frames) for sample in open_dataset(str(tmp_path / "out"), "train")] == [FRAMES] * 2


# --- what formats of decided frames cannot hold


def reasons(omissions: list[Omission]) -> list[tuple[int, str]]:
    assert not is_complete(omissions)
    assert all("davis and mots hold" in omission.reason for omission in omissions)
    return [(omission.task_id, omission.instance) for omission in omissions]


# The second is seen on the first frames alone, where nobody knows of the third.
HALF = (thing(1, range(FRAMES)), thing(2, range(5), absent=range(5, FRAMES)), thing(3, range(5, FRAMES)))
# One is decided on the first frames, the other on the rest.
NOWHERE = (thing(4, range(10)), thing(5, range(10, FRAMES)))
MISSING = [(1, "car 2"), (2, ""), (2, "car 4"), (2, "car 5")]


def test_coco_names_what_is_seen_on_undecided_frames_alone(tmp_path: Path) -> None:
    assert reasons(write("coco", tmp_path / "out", HALF, NOWHERE)) == MISSING
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [video["name"] for video in content["videos"]] == [NAME]
    assert len(content["images"]) == FRAMES - 5
    assert {one["expression"] for one in content["annotations"]} == {"thing 1", "thing 3"}


def test_yolo_names_what_is_seen_on_undecided_frames_alone(tmp_path: Path) -> None:
    assert reasons(write("yolo-seg", tmp_path / "out", HALF, NOWHERE)) == MISSING
    labels = sorted((tmp_path / "out/labels/train").iterdir())
    assert [file.stem for file in labels] == [f"{NAME}-{index:05d}" for index in range(5, FRAMES)]
    assert len(list((tmp_path / "out/images/train").iterdir())) == FRAMES - 5


def test_youtube_vos_names_what_is_seen_on_undecided_frames_alone(tmp_path: Path) -> None:
    assert reasons(write("youtube-vos", tmp_path / "out", HALF, NOWHERE)) == MISSING
    meta = json.loads((tmp_path / "out/train/meta.json").read_text())["videos"]
    assert {name: list(video["objects"]) for name, video in meta.items()} == {NAME: ["1", "3"]}
    assert [path.name for path in (tmp_path / "out/train/JPEGImages").iterdir()] == [NAME]
    samples = open_dataset(str(tmp_path / "out"), "train")
    assert [sample.expression for sample in samples] == ["thing 1", "thing 3"]
    assert all(len(sample.load()) == FRAMES - 5 for sample in samples)


@pytest.mark.parametrize("format_", ["davis", "mots"])
def test_formats_with_void_hold_all(tmp_path: Path, format_: str) -> None:
    assert write(format_, tmp_path / "out", HALF[:2], NOWHERE) == []


def test_a_task_of_which_nothing_is_seen_or_decided_is_no_loss(tmp_path: Path) -> None:
    (omission,) = write("coco", tmp_path / "out", HALF[:1], (thing(1, [], absent=[3]), thing(2, [])))
    assert (omission.task_id, omission.expected) == (2, True)


def test_a_warning_does_not_say_that_nobody_annotated_a_frame() -> None:
    (warning,) = _warnings(export_of(HALF))
    assert warning.startswith("task 1: at least one object is undecided on 5 of 20 frames")
