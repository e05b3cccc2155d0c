"""Exported datasets are read back with each format's own tool, or by its own rules, and compared with the store."""

from __future__ import annotations

import configparser
import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ml_backend.cli.main import main
from ml_backend.corrections.completion import Completer
from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.exporting.command import Exporter, ExportOptions, ExportReport
from ml_backend.exporting.dense import _windows, densify
from ml_backend.exporting.formats import VOID, save_palette
from ml_backend.exporting.labelled import (
    ExportedMask,
    ExportedObject,
    LabelledSequence,
    Provenance,
    disjoint,
    sequences,
)
from ml_backend.exporting.pictures import pictures_at
from ml_backend.exporting.provenance import PROVENANCE_FILE
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.outlines import joined_outline, mask_to_outlines
from ml_backend.label_studio.task_media import Loader, MediaLoader
from ml_backend.models.executor import Executor, ModelExecutor
from steerseg.demo.dataset import clips, load_manifest
from steerseg.errors import ConfigError, VideoError
from steerseg.evaluation.datasets import open_dataset
from steerseg.evaluation.metrics import score
from steerseg.masks import decode_rle, encode_rle, iou
from steerseg.presets import find_preset, load_preset
from steerseg.tracking import Tracker
from steerseg.video import DEFAULT_LIMITS, write_video
from steerseg.video.isolation import IsolatedDecoder
from tests.support import mask_targets
from tests.support.annotation_samples import (
    FRAMES_DATA,
    HEIGHT,
    PAGES,
    WIDTH,
    annotation,
    choice,
    event_body,
    frames_config,
    mask_regions,
    square,
)
from tests.support.completing import Completing, moving, regions

FIRST, FEW, ABSENT = "task-000005", "task-000006", "task-000008"
CONFIDENCE = 0.5  # of the masks that the test's handler propagates, those of frames 1 to 6 have as much


def no_tracker() -> Tracker:
    raise AssertionError("nothing is to be filled here")


@pytest.fixture(scope="module")
def completing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Completing]:
    """Task 5: two objects, one corrected; 6: one drawn on a page; 7: rejected; 8: not visible anywhere."""
    executor: ModelExecutor = Executor.local([mask_targets.masking])
    made = Completing(tmp_path_factory.mktemp("export"), executor, propagation_confidence=CONFIDENCE)
    proposal = made.propose(moving())

    def submit(task: int, results: list[dict[str, Any]], **fields: Any) -> None:
        body = event_body("ANNOTATION_CREATED", annotation(results, 10 * task, task=task, **fields))
        made.receive([{**body, "task": {"id": task, "data": FRAMES_DATA}}])

    ball = [*regions(proposal)[:11], *mask_regions({11: square(40)}, origin="prediction-changed")]
    box = mask_regions(
        {page: square(6 + 2 * page, 8, 20) for page in range(PAGES)},
        origin="prediction-changed",
        label="object 2",
        expression="the blue box",
    )
    for number, region in enumerate(box):
        region["id"] = f"other-{number}"
    submit(5, ball + box)
    submit(6, mask_regions({0: square(20)}, proposed=False))
    submit(7, [*mask_regions({0: square(20)}), choice("Reject")])
    submit(8, [choice("not visible")])
    made.ingestor.catch_up()
    made.completer.complete_all(patiently=False)
    yield made
    made.completer.close()
    executor.close()
    made.close()


def exporter_of(
    completing: Completing, media: Loader | None = None, tracker: Callable[[], Tracker] = no_tracker
) -> Exporter:
    refresher = CorrectionRefresher(completing.ingestor, completing.completer)
    return Exporter(completing.settings, completing.database, media or completing.media, refresher, tracker)


def export(completing: Completing, output: Path, format_: str, **options: Any) -> ExportReport:
    return exporter_of(completing).export(1, ExportOptions(format_, output, **options))


@pytest.fixture(scope="module")
def labelled(completing: Completing) -> dict[str, LabelledSequence]:
    accepted = [one for one in completing.corrections.corrections(1) if not one.rejected]
    found = sequences(accepted, CONFIDENCE)
    return {sequence.name: sequence for sequence in found}


def masks_of(sequence: LabelledSequence, number: int) -> dict[int, NDArray[np.bool_]]:
    """The visible masks of an object, counted from 1."""
    masks = sequence.objects[number - 1].masks
    return {i: decode_rle(m.rle) for i, m in masks.items() if m.rle is not None and m.visible}


# --- what is exported


def test_every_mask_says_who_made_it(labelled: dict[str, LabelledSequence]) -> None:
    assert sorted(labelled) == [FIRST, FEW, ABSENT], "a rejected proposal is not accepted"
    ball, box = labelled[FIRST].objects
    assert (ball.category, ball.expression, ball.version) == ("object 1", "the red ball", "v1")
    assert (box.category, box.expression) == ("object 2", "the blue box")
    assert {mask.provenance for i, mask in ball.masks.items() if i < 11} == {Provenance.PROPOSED}
    assert ball.masks[11].provenance is Provenance.HUMAN
    (drawn,) = labelled[FEW].objects
    assert [drawn.masks[i].provenance for i in (0, 1)] == [Provenance.HUMAN, Provenance.PROPAGATED]
    assert labelled[FEW].undecided() == [7, 8, 9, 10, 11], "SAM 2 is not sure enough there"
    (absent,) = labelled[ABSENT].objects
    assert len(absent.masks) == PAGES
    assert not absent.ever_visible


def test_what_an_annotator_decided_hides_what_was_proposed(labelled: dict[str, LabelledSequence]) -> None:
    sequence = labelled[FIRST]
    frame = disjoint(sequence, 3)
    ball, box = masks_of(sequence, 1)[3], masks_of(sequence, 2)[3]
    assert (ball & box).any()
    assert (frame[2] == box).all()
    assert (frame[1] == (ball & ~box)).all()


def test_categories_are_labels_or_expressions(completing: Completing) -> None:
    (one, *_) = completing.corrections.corrections(1)
    (sequence,) = sequences([one], CONFIDENCE, "expression")
    assert sequence.objects[0].category == "the red ball"


# --- formats


def test_coco_is_read_by_pycocotools(
    completing: Completing, labelled: dict[str, LabelledSequence], tmp_path: Path
) -> None:
    report = export(completing, tmp_path / "out", "coco")
    assert "3 tasks, 4 objects" in str(report)
    assert any(
        "task 6: at least one object is undecided on 5 of 12 frames" in warning for warning in report.warnings
    )
    coco = COCO(tmp_path / "out" / "annotations.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["object 1", "object 2"]
    images = coco.loadImgs(coco.getImgIds())
    assert len(images) == 2 * PAGES + 7
    seen = 0
    for image in images:
        with Image.open(tmp_path / "out" / "images" / image["file_name"]) as picture:
            assert (picture.width, picture.height) == (image["width"], image["height"])
        sequence = labelled[image["file_name"].partition("/")[0]]
        for found in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            object_ = next(o for o in sequence.objects if o.expression == found["expression"])
            mask = object_.masks[image["frame_index"]]
            assert mask.rle is not None
            assert (coco.annToMask(found) == decode_rle(mask.rle)).all()
            assert found["area"] == coco.annToMask(found).sum()
            assert found["provenance"] == mask.provenance
            x, y, width, height = found["bbox"]
            assert (
                coco.annToMask(found)[int(y) : int(y + height), int(x) : int(x + width)].sum()
                == found["area"]
            )
            seen += 1
    assert seen == 2 * PAGES + 7


def test_davis_is_read_as_palette_pictures(
    completing: Completing, labelled: dict[str, LabelledSequence], tmp_path: Path
) -> None:
    export(completing, tmp_path / "out", "davis")
    names = (tmp_path / "out/ImageSets/2017/train.txt").read_text().split()
    assert names == [FIRST, FEW], "a task that shows nothing has no track"
    for name in names:
        for index in range(PAGES):
            with Image.open(tmp_path / f"out/Annotations/Full-Resolution/{name}/{index:05d}.png") as image:
                assert image.mode == "P"
                assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
                numbers = np.asarray(image)
            assert (tmp_path / f"out/JPEGImages/Full-Resolution/{name}/{index:05d}.jpg").is_file()
            masks = disjoint(labelled[name], index)
            for number, mask in masks.items():
                assert ((numbers == number) == mask).all()
            unknown = index in labelled[name].undecided()
            assert set(np.unique(numbers)) - {*masks} == ({VOID} if unknown else {0})


def test_void_pixels_of_davis_count_neither_in_j_nor_in_f(completing: Completing, tmp_path: Path) -> None:
    export(completing, tmp_path / "out", "davis", images=False)
    files = sorted((tmp_path / "out/Annotations/Full-Resolution" / FEW).iterdir())
    numbers = np.stack([np.asarray(Image.open(file)) for file in files])
    void = numbers == VOID
    assert void.any(axis=(1, 2)).tolist() == [False] * 7 + [True] * 5
    truth = numbers == 1
    noisy = truth | (void & (np.random.default_rng(0).random(truth.shape) < 0.5))
    assert (score(noisy, truth, void).j, score(noisy, truth, void).f) == (1, 1)
    assert score(noisy, truth).j < 1


def test_davis_is_evaluated_with_its_void_pixels(completing: Completing, tmp_path: Path) -> None:
    """Where the second instance is not known, what is predicted of it counts for nothing."""
    export(completing, tmp_path / "out", "davis")
    path = tmp_path / "out/Annotations/Full-Resolution" / FIRST
    for index in range(3, PAGES):
        file = path / f"{index:05d}.png"
        with Image.open(file) as image:
            numbers = np.asarray(image).copy()
        numbers[numbers != 1] = VOID
        save_palette(numbers, file)
    listed = tmp_path / "out/meta_expressions/train/meta_expressions.json"
    content = json.loads(listed.read_text())
    for video in content["videos"].values():
        for expression in video["expressions"].values():
            del expression["frames"]  # as older exports have it
    listed.write_text(json.dumps(content))
    first, second, few = open_dataset(str(tmp_path / "out"), "train")
    assert [one.expression for one in (first, second, few)] == [
        "the red ball",
        "the blue box",
        "the red ball",
    ]
    assert [len(one.frames) for one in (first, second, few)] == [PAGES, PAGES, 7], (
        "the rest is void as a whole"
    )
    void = second.void()
    assert void is not None
    assert void.any(axis=(1, 2)).tolist() == [False] * 3 + [True] * (PAGES - 3)
    truth = second.masks()
    predicted = truth | void
    assert (score(predicted, truth, void).j, score(predicted, truth, void).f) == (1, 1)
    assert score(predicted, truth).j < 1
    assert len(second.load()) == PAGES


VOS_BENCHMARK = """
import json, sys
from vos_benchmark.benchmark import benchmark
_, _, _, (objects,) = benchmark(
    [sys.argv[1]], [sys.argv[1]], num_processes=1, verbose=False, skip_first_and_last=False
)
print(json.dumps({video: [sorted(iou), min(iou.values()), min(f.values())] for video, (iou, f) in objects.items()}))
"""


def test_davis_is_scored_by_vos_benchmark(completing: Completing, tmp_path: Path) -> None:
    export(completing, tmp_path / "out", "davis", images=False)
    assert not (tmp_path / "out" / "JPEGImages").exists()
    # It knows no void: only what is decided as a whole is scored.
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / FIRST).symlink_to(tmp_path / "out/Annotations/Full-Resolution" / FIRST)
    # In a process of its own: it forks, which can hang beside the threads of the libraries loaded here.
    run = subprocess.run(
        [sys.executable, "-c", VOS_BENCHMARK, str(tmp_path / "scored")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(run.stdout.splitlines()[-1]) == {FIRST: [[1, 2], 100, 100]}


def test_youtube_vos_is_read_with_its_expressions(
    completing: Completing, labelled: dict[str, LabelledSequence], tmp_path: Path
) -> None:
    export(completing, tmp_path / "out", "youtube-vos")
    meta = json.loads((tmp_path / "out" / "train" / "meta.json").read_text())["videos"]
    assert sorted(meta) == [FIRST, FEW]
    assert meta[FIRST]["objects"]["2"]["category"] == "object 2"
    assert meta[FEW]["objects"]["1"]["frames"] == [f"{index:05d}" for index in range(7)]
    for name, video in meta.items():
        for number, object_ in video["objects"].items():
            for frame in object_["frames"]:
                with Image.open(tmp_path / f"out/train/Annotations/{name}/{frame}.png") as image:
                    expected = disjoint(labelled[name], int(frame)).get(int(number))
                    assert expected is not None
                    assert ((np.asarray(image) == int(number)) == expected).all()
    samples = open_dataset(str(tmp_path / "out"), "train")
    told = [(sample.video, sample.expression, len(sample.frames)) for sample in samples]
    assert told == [(FIRST, "the red ball", 12), (FIRST, "the blue box", 12), (FEW, "the red ball", 7)]
    assert len(samples[2].load()) == 7
    assert (samples[2].masks()[0] == square(20)).all()


def test_mots_lines_are_disjoint_run_lengths(
    completing: Completing, labelled: dict[str, LabelledSequence], tmp_path: Path
) -> None:
    export(completing, tmp_path / "out", "mots")
    for name in (FIRST, FEW):
        folder = tmp_path / "out" / name
        told = configparser.ConfigParser()
        told.read(folder / "seqinfo.ini")
        assert told["Sequence"]["seqLength"] == str(PAGES)
        assert len(list((folder / "img1").iterdir())) == PAGES
        frames: dict[int, dict[int, NDArray[np.bool_]]] = {}
        for line in (folder / "gt" / "gt.txt").read_text().splitlines():
            frame, identity, kind, height, width, counts = line.split(" ")
            assert int(identity) // 1000 == int(kind)
            rle = {"size": [int(height), int(width)], "counts": counts.encode()}
            frames.setdefault(int(frame) - 1, {})[int(identity)] = coco_mask.decode(rle).astype(bool)
        assert sorted(frames) == list(range(PAGES))
        for index, masks in frames.items():
            assert np.sum([*masks.values()], axis=0).max() == 1, "masks of MOTS do not overlap"
            for number, mask in disjoint(labelled[name], index).items():
                assert (masks[number * 1000 + number] == mask).all()  # object n has class n here
            assert (10_000 in masks) == (index in labelled[name].undecided())
    assert (tmp_path / "out" / "classes.txt").read_text() == "1 object 1\n2 object 2\n10 ignore\n"


def test_yolo_outlines_give_the_masks_back(
    completing: Completing, labelled: dict[str, LabelledSequence], tmp_path: Path
) -> None:
    export(completing, tmp_path / "out", "yolo-seg")
    labels = sorted((tmp_path / "out" / "labels" / "train").iterdir())
    images = sorted((tmp_path / "out" / "images" / "train").iterdir())
    assert [file.stem for file in labels] == [file.stem for file in images]
    assert len(labels) == 2 * PAGES + 7
    for file in labels:
        name, _, frame = file.stem.rpartition("-")
        shown = [
            (object_, mask)
            for object_ in labelled[name].objects
            if (mask := object_.masks[int(frame)]).rle is not None
        ]
        lines = file.read_text().splitlines()
        assert len(lines) == len(shown)
        for line, (object_, mask) in zip(lines, shown, strict=True):
            number, *corners = line.split()
            assert f"object {int(number) + 1}" == object_.category
            outline = np.array(corners, dtype=float).reshape(-1, 2)
            assert 0 <= outline.min() <= outline.max() <= 1
            polygon = (outline * [WIDTH, HEIGHT]).ravel().tolist()
            (rle,) = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)
            assert mask.rle is not None
            assert iou(coco_mask.decode(rle).astype(bool), decode_rle(mask.rle)) >= 0.95
    assert '0: "object 1"' in (tmp_path / "out" / "data.yaml").read_text()


def test_an_object_in_parts_with_a_hole_is_one_outline() -> None:
    mask = square(4, 4, 20) | square(40, 10, 12) | square(56, 30, 5)
    mask[10:16, 10:16] = False
    outline = joined_outline(mask_to_outlines(mask))
    (rle,) = coco_mask.frPyObjects([outline.ravel().tolist()], HEIGHT, WIDTH)
    assert iou(coco_mask.decode(rle).astype(bool), mask) >= 0.95


def test_provenance_stands_beside_every_format(completing: Completing, tmp_path: Path) -> None:
    export(completing, tmp_path / "out", "mots", images=False)
    told = json.loads((tmp_path / "out" / PROVENANCE_FILE).read_text())
    masks = told["sequences"][FIRST]["objects"]["1"]["masks"]
    assert (masks["0"]["from"], masks["11"]["from"]) == ("proposed", "human")
    assert masks["0"]["iou_with_proposal"] == 1.0
    few = told["sequences"][FEW]
    assert few["undecided"] == [7, 8, 9, 10, 11]
    assert few["objects"]["1"]["masks"]["3"] == {
        "from": "propagated",
        "visible": True,
        "confidence": 0.75,
        "drawn_as_box": False,
        "iou_with_proposal": None,
    }


# --- what can go wrong


def test_a_folder_that_is_there_is_left_alone(completing: Completing, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(ConfigError, match="--output"):
        export(completing, tmp_path, "coco")
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_nothing_to_export_says_where_to_look(completing: Completing, tmp_path: Path) -> None:
    exporter = exporter_of(completing)
    with pytest.raises(ConfigError, match="corrections 99"):
        exporter.export(99, ExportOptions("coco", tmp_path / "out"))


def test_a_task_without_media_is_left_out_and_told(completing: Completing, tmp_path: Path) -> None:
    exporter = exporter_of(completing, MediaLoader(completing.settings))
    with pytest.raises(ConfigError, match="no task of project 1 could be exported"):
        exporter.export(1, ExportOptions("coco", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    report = exporter.export(1, ExportOptions("coco", tmp_path / "out", images=False))
    assert len(report.sequences) == 3


def test_the_command_writes_and_warns(
    completing: Completing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "1", "--format", "coco", "--no-images", "--output", str(tmp_path / "out")]
    folder = str(completing.settings.data_dir)
    arguments += ["--data-dir", folder, "--propagation-confidence", str(CONFIDENCE)]
    assert main([*arguments, "--allow-incomplete"]) == 0
    told = capsys.readouterr()
    assert "3 tasks, 4 objects, 31 masks (14 human, 6 propagated, 11 proposed)" in told.out
    assert "at least one object is undecided on 5 of 12 frames" in told.err


def test_pictures_are_as_large_as_their_masks(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame(160, 120, "yuv420p")))
        container.mux(stream.encode(None))
    with contextlib.closing(IsolatedDecoder(DEFAULT_LIMITS, lasting=True)) as decoder:
        for size in ((120, 320), (120, 160)):  # of square pixels, and as the frames are stored
            assert [frame.shape[:2] for frame in pictures_at(path, decoder, size).frames()] == [size] * 2
        assert next(pictures_at(path, decoder).frames()).shape[:2] == (120, 320)
        with pytest.raises(VideoError, match="320 x 120"):
            next(pictures_at(path, decoder, (60, 80)).frames())


# --- strides


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return Tracker.from_pretrained(load_preset(find_preset("demo")).sam2)


class Frames:
    """Frames at hand."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._frames = frames

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        return iter(self._frames)

    def jpegs(self) -> Iterator[bytes]:
        raise AssertionError("no pictures are wanted")


@pytest.mark.parametrize(("length", "stride"), [(1, 4), (9, 4), (10, 4), (60, 3), (400, 100), (14, 2)])
def test_windows_go_from_page_to_page(length: int, stride: int) -> None:
    frames = [np.full((1, 1, 3), index, dtype=np.uint16) for index in range(length)]
    windows = list(_windows(iter(frames), stride))  # type: ignore[arg-type]
    for start, window in windows:
        assert start % stride == 0
        assert [int(frame[0, 0, 0]) for frame in window] == list(range(start, start + len(window)))
    for (start, window), (after, _) in itertools.pairwise(windows):
        assert after == start + len(window) - 1
    start, window = windows[-1]
    assert start + len(window) == length


@pytest.fixture(scope="module")
def film() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A clip of the demo's world with the true masks of one object."""
    clip = next(iter(clips(load_manifest("val"))))
    return clip.frames[:9], clip.masks(clip.entry.expressions[0])[:9]


def strided(
    labelled: dict[str, LabelledSequence],
    truth: NDArray[np.bool_],
    stride: int,
    unknown: tuple[int, ...] = (),
) -> LabelledSequence:
    """A task of every ``stride``-th frame, annotated as it should be."""
    masks = {
        page: ExportedMask(encode_rle(mask) if mask.any() else None, Provenance.HUMAN, 1.0)
        for page, mask in enumerate(truth[::stride])
        if page not in unknown
    }
    object_ = ExportedObject(1, 1, "object 1", "the red ball", None, masks)
    return replace(
        labelled[FIRST],
        num_frames=len(truth[::stride]),
        height=truth.shape[1],
        width=truth.shape[2],
        fps=24 / stride,
        stride=stride,
        objects=(object_,),
    )


def test_a_strided_task_gets_masks_for_all_frames(
    labelled: dict[str, LabelledSequence],
    tracker: Tracker,
    film: tuple[NDArray[np.uint8], NDArray[np.bool_]],
) -> None:
    frames, truth = film
    stride = 4
    task = strided(labelled, truth, stride, unknown=(1,))
    told: list[float] = []
    dense = densify(task, Frames(frames[::stride]), Frames(frames), tracker, 0.0, told.append)
    assert (dense.num_frames, dense.fps, dense.stride) == (len(frames), 24, 1)
    assert dense.undecided() == []
    assert told == sorted(told)
    masks = dense.objects[0].masks
    for page, mask in task.objects[0].masks.items():
        assert masks[page * stride] == mask, "what was annotated stays as it was"
    between = [index for index in range(len(frames)) if index % stride or index == stride]
    assert {masks[index].provenance for index in between} == {Provenance.PROPAGATED}
    nothing = np.zeros(truth.shape[1:], dtype=bool)
    found = [nothing if (rle := masks[index].rle) is None else decode_rle(rle) for index in between]
    assert np.mean([iou(mask, truth[index]) for mask, index in zip(found, between, strict=True)]) >= 0.7


def test_frames_without_confidence_stay_undecided(
    labelled: dict[str, LabelledSequence],
    tracker: Tracker,
    film: tuple[NDArray[np.uint8], NDArray[np.bool_]],
) -> None:
    frames, truth = film[0][:3], film[1][:3]
    dense = densify(strided(labelled, truth, 2), Frames(frames[::2]), Frames(frames), tracker, 1.01)
    assert dense.undecided() == [1]


def test_another_video_is_refused(
    labelled: dict[str, LabelledSequence], film: tuple[NDArray[np.uint8], NDArray[np.bool_]]
) -> None:
    frames, truth = film
    hidden = np.zeros_like(truth)  # so that nothing is tracked
    task = strided(labelled, hidden, 4)
    pages = Frames(frames[::4])
    for other, reason in (
        (frames[:, ::-1], "looks different"),
        (frames[:-4], "pages at this stride"),
        (np.concatenate([frames, frames]), "more than"),
        (frames[:, :-2], "its frames are"),
    ):
        with pytest.raises(VideoError, match=reason):
            densify(task, pages, Frames(other), None, 0.5)  # type: ignore[arg-type]


@pytest.fixture(params=[0, 2], ids=["whole", "split"])
def filmed(
    tmp_path: Path,
    film: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Completing, list[NDArray[np.bool_]]]]:
    """Every fourth frame of a video as a task's pages, annotated as they should be; the video lies beside them.

    Once the task is a part of a longer video, with so many pages before it.
    """
    frames, truth = film
    (tmp_path / "videos").mkdir()
    before = 4 * request.param
    shown = itertools.chain(np.zeros((before, *frames.shape[1:]), np.uint8), frames)
    write_video(tmp_path / "videos" / "clip.mp4", shown, 24.0)
    pages = []
    for index, frame in enumerate(frames[::4]):
        pages.append(tmp_path / "pages" / f"{index:05d}.jpg")
        pages[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(frame).save(pages[-1], quality=90)
    executor: ModelExecutor = Executor.local([mask_targets.masking])
    made = Completing(tmp_path, executor, local_roots=(tmp_path,))
    made.media = MediaLoader(made.settings)  # type: ignore[assignment]
    made.completer.close()
    made.completer = Completer(made.settings, made.database, made.media, Connections(made.settings), executor)
    masks = list(truth[::4])
    data = {
        "frames": [str(page) for page in pages],
        "fps": 24,
        "stride": 4,
        "source": "/elsewhere/clip.mp4",
        "expr": "the red ball",
    } | ({"first_frame": before} if before else {})
    drawn = mask_regions({i: mask for i, mask in enumerate(masks) if mask.any()}, "bitmask", proposed=False)
    made.receive(
        [event_body("ANNOTATION_CREATED", annotation(drawn), data=data, config=frames_config("bitmask"))]
    )
    made.ingestor.catch_up()
    made.completer.complete_all(patiently=False)
    yield made, masks
    made.completer.close()
    executor.close()
    made.close()


def test_a_strided_task_is_exported_with_all_frames_of_its_video(
    filmed: tuple[Completing, list[NDArray[np.bool_]]], tracker: Tracker, tmp_path: Path
) -> None:
    completing, masks = filmed
    exporter = exporter_of(completing, tracker=lambda: tracker)
    told: list[str] = []
    wanted = ExportOptions("youtube-vos", tmp_path / "dense", videos=tmp_path / "videos")
    report = exporter.export(1, wanted, told.append)
    assert "task 5: filling the frames between its pages" in told
    assert not [warning for warning in report.warnings if "only every" in warning]
    (dense,) = report.sequences
    assert (dense.num_frames, dense.fps) == (9, 24)
    written = sorted((tmp_path / "dense" / "train" / "JPEGImages" / FIRST).iterdir())
    assert len(written) == 9
    for page, mask in enumerate(masks):
        with Image.open(tmp_path / f"dense/train/Annotations/{FIRST}/{4 * page:05d}.png") as image:
            assert ((np.asarray(image) == 1) == mask).all()
    report = exporter.export(1, ExportOptions("youtube-vos", tmp_path / "sparse"))
    (missing,) = [omission for omission in report.omissions if omission.task_id == 5]
    assert "only every 4. frame has masks" in missing.reason
    assert "--videos" in missing.reason
    assert not missing.expected
    assert (report.sequences[0].num_frames, report.sequences[0].fps) == (3, 6)
    wanted = ExportOptions("youtube-vos", tmp_path / "pages-alone", pages=True)
    report = exporter.export(1, wanted)
    assert not [omission for omission in report.omissions if omission.task_id == 5], "pages were asked for"
    assert report.sequences[0].num_frames == 3
