"""Exported datasets are opened by other people's tools, where these are installed."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ml_backend.exporting.classes import configured_classes
from ml_backend.exporting.command import FORMATS
from ml_backend.exporting.formats import PALETTE, Export
from ml_backend.exporting.labelled import ExportedMask, ExportedObject, LabelledSequence, Provenance
from ml_backend.exporting.pictures import PagePictures
from ml_backend.exporting.splits import TRAIN, VAL
from ml_backend.label_studio.outlines import outlines_to_mask
from steerseg.masks import encode_rle, iou
from steerseg.video import DEFAULT_LIMITS
from steerseg.video.isolation import IsolatedDecoder
from tests.support.corrections import bare_correction

HEIGHT, WIDTH, FRAMES = 48, 64, 3
CONFIG = """<View><BrushLabels name="mask" toName="frames"><Label value="zebra"/><Label value="apple"/>
<Label value="moon" category="7"/></BrushLabels><Image name="frames" valueList="$frames"/></View>"""
NUMBERS = {"zebra": 0, "apple": 1, "moon": 7}

WriteExport = Callable[..., Path]


def square(x: int, y: int, side: int = 12) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


MASKS = {"zebra": square(2, 2), "moon": square(30, 20) | square(50, 4, 8)}


def sequence(task: int) -> LabelledSequence:
    correction = bare_correction(
        task,
        task_id=task,
        media_digest=str(task),
        label_config=CONFIG,
        num_frames=FRAMES,
        height=HEIGHT,
        width=WIDTH,
    )
    objects = tuple(
        ExportedObject(
            correction_id=task,
            annotation_id=task,
            category=label,
            expression=f"the {label}",
            version=None,
            masks={index: ExportedMask(encode_rle(mask), Provenance.HUMAN, 1.0) for index in range(FRAMES)},
            name=label,
        )
        for label, mask in MASKS.items()
    )
    return LabelledSequence(f"task-{task:06d}", task, correction, FRAMES, HEIGHT, WIDTH, 12.0, 1, objects)


@pytest.fixture
def write_export(tmp_path: Path) -> Iterator[WriteExport]:
    """Write two tasks with a zebra and a moon each, and no apple."""
    pages, decoder = tmp_path / "pages", IsolatedDecoder(DEFAULT_LIMITS, lasting=True)
    pages.mkdir()
    for page in range(FRAMES):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * page, 90, 10)).save(pages / f"{page}.jpg")

    def write(format_: str, *, is_split: bool = True) -> Path:
        sequences = (sequence(5), sequence(6))
        first, second = (frozenset([one.name]) for one in sequences)
        export = Export(
            project_id=1,
            sequences=sequences,
            pictures={one.name: PagePictures(pages, decoder) for one in sequences},
            classes=configured_classes(CONFIG, ["moon", "zebra"]),
            parts={TRAIN: first, VAL: second} if is_split else {TRAIN: first | second},
            is_split=is_split,
        )
        folder = tmp_path / format_
        folder.mkdir()
        assert FORMATS[format_].write(export, folder) == []
        return folder

    yield write
    decoder.close()


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}")


def run(code: str, *arguments: str, cwd: Path) -> str:
    """Run code in a process of its own, elsewhere; return the last line that it prints."""
    # Isolated from the folder of the tests, with the same packages.
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


# --- COCO


def test_pycocotools_opens_every_part(write_export: WriteExport) -> None:
    folder = write_export("coco")
    for part in (TRAIN, VAL):
        coco = COCO(str(folder / "annotations" / f"instances_{part}.json"))
        assert {c["name"]: c["id"] for c in coco.loadCats(coco.getCatIds())} == {
            "zebra": 1,
            "apple": 2,
            "moon": 7,
        }
        (moon,) = coco.loadAnns(coco.getAnnIds(imgIds=coco.getImgIds()[0], catIds=[7]))
        assert (coco.annToMask(moon) == MASKS["moon"]).all()


@needs("supervision")
def test_supervision_opens_coco(write_export: WriteExport) -> None:
    import supervision

    folder = write_export("coco", is_split=False)
    dataset = supervision.DetectionDataset.from_coco(
        str(folder / "images"), str(folder / "annotations.json"), force_masks=True
    )
    assert dataset.classes == ["zebra", "apple", "moon"]
    assert len(dataset) == 2 * FRAMES
    for _, picture, found in dataset:
        assert picture.shape == (HEIGHT, WIDTH, 3)
        names = [dataset.classes[number] for number in found.class_id]
        assert sorted(names) == ["moon", "zebra"]
        for name, mask in zip(names, found.mask, strict=True):
            assert (mask == MASKS[name]).all()


FIFTYONE = """
import json, sys
import fiftyone.types
import fiftyone.utils.coco as coco
importer = coco.COCODetectionDatasetImporter(
    data_path=sys.argv[1] + "/images", labels_path=sys.argv[1] + "/annotations.json",
    label_types="segmentations",
)
found = []
with importer:
    for path, metadata, label in importer:
        found.append([metadata.width, metadata.height, sorted(
            [one.label, int(one.mask.sum())] for one in label.detections
        )])
print(json.dumps(found))
"""


@needs("fiftyone")
def test_fiftyone_opens_coco(write_export: WriteExport, tmp_path: Path) -> None:
    folder = write_export("coco", is_split=False)
    areas = sorted([name, int(mask.sum())] for name, mask in MASKS.items())
    found = json.loads(run(FIFTYONE, str(folder), cwd=tmp_path))
    assert found == [[WIDTH, HEIGHT, areas]] * (2 * FRAMES)


# --- YOLO

ULTRALYTICS = """
import json, sys
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset
told = check_det_dataset(sys.argv[1], autodownload=False)
sizes = {}
for part in ("train", "val"):
    dataset = YOLODataset(img_path=told[part], data=told, task="segment", augment=False, imgsz=64)
    sizes[part] = [sorted(label["cls"].ravel().tolist()) for label in dataset.labels]
print(json.dumps([told["names"], sizes]))
"""


@needs("ultralytics")
@pytest.mark.parametrize("is_split", [False, True])
def test_ultralytics_opens_yolo_from_any_folder(
    write_export: WriteExport, tmp_path: Path, is_split: bool
) -> None:
    folder = write_export("yolo-seg", is_split=is_split)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    names, labels = json.loads(run(ULTRALYTICS, str(folder / "data.yaml"), cwd=elsewhere))
    assert {int(number): name for number, name in names.items()} == {
        **{number: name for name, number in NUMBERS.items()},
        **{number: f"unused {number}" for number in range(2, 7)},
    }
    count = FRAMES if is_split else 2 * FRAMES
    assert labels == {"train": [[0.0, 7.0]] * count, "val": [[0.0, 7.0]] * count}


def test_a_yolo_export_names_no_folder_but_its_own(write_export: WriteExport) -> None:
    """Without ``path``, the tools look beside the file; with a relative one, below their own folder."""
    folder = write_export("yolo-seg")
    told = (folder / "data.yaml").read_text()
    assert not re.search("^path:", told, re.MULTILINE)
    for part in (TRAIN, VAL):
        assert f"{part}: images/{part}\n" in told
        pictures = {file.stem for file in (folder / "images" / part).iterdir()}
        assert pictures == {file.stem for file in (folder / "labels" / part).iterdir()}
        assert len(pictures) == FRAMES


# --- MOTS, DAVIS, YouTube-VOS: by their public rules


def test_mots_keeps_its_rules(write_export: WriteExport) -> None:
    """An id is class * 1000 + instance, a class number is neither 0 nor 10 but to be ignored, frames count from 1."""
    folder = write_export("mots")
    classes = dict(line.split(" ", 1) for line in (folder / "classes.txt").read_text().splitlines())
    assert classes == {"1": "zebra", "2": "apple", "7": "moon", "10": "ignore"}
    for part, name in ((TRAIN, "task-000005"), (VAL, "task-000006")):
        assert (folder / "seqmaps" / f"{part}.txt").read_text() == f"name\n{name}\n"
        lines = [line.split(" ") for line in (folder / name / "gt" / "gt.txt").read_text().splitlines()]
        assert {int(line[0]) for line in lines} == set(range(1, FRAMES + 1))
        assert {(int(line[1]), int(line[2])) for line in lines} == {(1001, 1), (7002, 7)}
        assert {(line[3], line[4]) for line in lines} == {(str(HEIGHT), str(WIDTH))}
        assert (folder / name / "img1" / "000001.jpg").is_file()


@pytest.mark.parametrize("format_", ["davis", "youtube-vos"])
def test_palettes_and_ids_are_those_of_the_format(write_export: WriteExport, format_: str) -> None:
    folder = write_export(format_)
    masks = "Annotations/Full-Resolution" if format_ == "davis" else f"{TRAIN}/Annotations"
    with Image.open(folder / masks / "task-000005" / "00000.png") as image:
        assert image.mode == "P"
        assert bytes(image.getpalette() or ()) == PALETTE
        numbers = np.asarray(image)
    assert PALETTE[:15] == bytes((0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128)), (
        "PASCAL VOC's colours"
    )
    assert ((numbers == 1) == MASKS["zebra"]).all()
    assert ((numbers == 2) == MASKS["moon"]).all()
    if format_ == "youtube-vos":
        meta = json.loads((folder / TRAIN / "meta.json").read_text())
        assert {n: o["category"] for n, o in meta["videos"]["task-000005"]["objects"].items()} == {
            "1": "zebra",
            "2": "moon",
        }


# --- outlines that cross themselves


BOW = [(4, 4), (28, 40), (28, 4), (4, 40)]
TWICE_ROUND = [
    (34, 4),
    (60, 4),
    (60, 44),
    (34, 44),
    (34, 4),
    (40, 10),
    (54, 10),
    (54, 36),
    (40, 36),
    (40, 10),
]


@pytest.mark.parametrize("format_", FORMATS)
def test_polygons_that_cross_themselves_are_kept(format_: str, tmp_path: Path) -> None:
    """The two halves of a bow stay, and so does what an outline goes round twice."""
    masks = [
        outlines_to_mask([np.array(corners, dtype=float)], HEIGHT, WIDTH) for corners in (BOW, TWICE_ROUND)
    ]
    assert masks[1][20, 47]
    plain = sequence(5)
    objects = tuple(
        replace(object_, masks={0: ExportedMask(encode_rle(mask), Provenance.HUMAN, 1.0)})
        for object_, mask in zip(plain.objects, masks, strict=True)
    )
    one = replace(plain, num_frames=1, objects=objects)
    folder = tmp_path / format_
    folder.mkdir()
    export = Export(1, (one,), {}, configured_classes(CONFIG, []), {TRAIN: frozenset([one.name])})
    assert FORMATS[format_].write(export, folder) == []
    for mask, found in zip(masks, read_back(format_, folder), strict=True):
        if format_ == "yolo-seg":
            assert iou(found, mask) >= 0.95  # readers fill through the centres of border pixels
        else:
            assert (found == mask).all()


def read_back(format_: str, folder: Path) -> list[NDArray[np.bool_]]:
    """The two masks of an export of one frame, as the format's own readers see them."""
    if format_ == "coco":
        coco = COCO(str(folder / "annotations.json"))
        return [coco.annToMask(one).astype(bool) for one in coco.loadAnns(coco.getAnnIds())]
    if format_ == "mots":
        lines = (folder / "task-000005" / "gt" / "gt.txt").read_text().splitlines()
        runs = [{"size": [HEIGHT, WIDTH], "counts": line.split(" ")[5]} for line in lines]
        return [coco_mask.decode(run).astype(bool) for run in runs]
    if format_ == "yolo-seg":
        (file,) = (folder / "labels" / "train").iterdir()
        found = []
        for line in file.read_text().splitlines():
            outline = np.array(line.split(" ")[1:], dtype=float).reshape(-1, 2) * [WIDTH, HEIGHT]
            (run,) = coco_mask.frPyObjects([outline.ravel().tolist()], HEIGHT, WIDTH)
            found.append(coco_mask.decode(run).astype(bool))
        return found
    masks = "Annotations/Full-Resolution" if format_ == "davis" else f"{TRAIN}/Annotations"
    with Image.open(folder / masks / "task-000005" / "00000.png") as image:
        numbers = np.asarray(image)
    return [numbers == 1, numbers == 2]


def test_what_others_cover_is_named(tmp_path: Path) -> None:
    plain = sequence(5)
    hidden = replace(
        plain.objects[0],
        name="apple",
        category="apple",
        masks={0: ExportedMask(encode_rle(square(30, 20)), Provenance.PROPOSED, 1.0)},
    )
    above = replace(plain.objects[1], masks={0: plain.objects[1].masks[0]})
    one = replace(plain, num_frames=1, objects=(hidden, above))
    classes = configured_classes(CONFIG, [])
    export = Export(1, (one,), {}, classes, {TRAIN: frozenset([one.name])})
    for format_ in ("davis", "youtube-vos", "mots"):
        folder = tmp_path / format_
        folder.mkdir()
        (omission,) = FORMATS[format_].write(export, folder)
        assert (omission.task_id, omission.instance, omission.expected) == (5, "apple", False)
        assert "others cover it on 1 of its 1 frames" in omission.reason
    (tmp_path / "coco").mkdir()
    assert FORMATS["coco"].write(export, tmp_path / "coco") == []
