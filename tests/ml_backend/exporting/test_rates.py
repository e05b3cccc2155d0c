"""The frame rate and the thinning that an export states, and where they are known from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.corrections.records import Correction, Evidence, FrameCorrection
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.exporting.classes import ClassTable, ExportedClass
from ml_backend.exporting.command import FORMATS, _warnings
from ml_backend.exporting.formats import Export
from ml_backend.exporting.gathering import Gatherer
from ml_backend.exporting.labelled import LabelledSequence, sequences
from ml_backend.exporting.provenance import provenance
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.settings import Settings
from steerseg.masks import encode_rle
from steerseg.tracking import Tracker
from steerseg.video import DEFAULT_LIMITS, write_video
from steerseg.video.isolation import IsolatedDecoder
from tests.support.corrections import bare_correction

SIZE, FRAMES, RATE = 64, 10, 50
CONFIG = """<View><Video name="video" value="$video"RATE/><VideoRectangle name="box" toName="video"/>
<Labels name="label" toName="video"><Label value="car"/></Labels></View>"""
PAGES = """<View><Image name="frames" valueList="$frames"/><BrushLabels name="mask" toName="frames">
<Label value="car"/></BrushLabels></View>"""


def correction(data: dict[str, Any], frame_rate: str = "", *, pages: bool = False) -> Correction:
    """An object that is known on all frames."""
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[4:20, 4:20] = True
    decided = FrameCorrection(Evidence.MASK, encode_rle(mask), (), True, 1.0, None)
    return bare_correction(
        object="car",
        expression="the car",
        media_digest="",
        task_data=data,
        label_config=PAGES if pages else CONFIG.replace("RATE", frame_rate and f' frameRate="{frame_rate}"'),
        side="frames" if pages else "video",
        num_frames=FRAMES,
        height=SIZE,
        width=SIZE,
        frames=dict.fromkeys(range(FRAMES), decided),
        label="car",
    )


def sequence_of(known: Correction) -> LabelledSequence:
    (sequence,) = sequences([known], 0.5)
    return sequence


def export_of(sequence: LabelledSequence) -> Export:
    classes = ClassTable((ExportedClass("car"),))
    return Export(1, (sequence,), {}, classes, {"train": frozenset([sequence.name])})


@pytest.mark.parametrize(
    ("data", "frame_rate"),
    [
        ({"fps": RATE}, ""),
        ({"fps": RATE}, "$rate"),
        ({"rate": RATE}, "$rate"),
        ({"rate": 1 / RATE}, "$rate"),
        ({}, str(RATE)),
    ],
)
def test_the_task_or_its_configuration_says_the_rate(data: dict[str, Any], frame_rate: str) -> None:
    sequence = sequence_of(correction({"video": "clip.mp4", **data}, frame_rate))
    assert (sequence.fps, sequence.knows_fps) == (RATE, True)
    assert not _warnings(export_of(sequence))


@pytest.mark.parametrize("pages", [False, True])
def test_a_rate_that_nothing_says_is_told(tmp_path: Path, pages: bool) -> None:
    data = {"frames": ["0.jpg"], "stride": 5} if pages else {"video": "clip.mp4"}
    sequence = sequence_of(correction(data, "$fps", pages=pages))
    assert (sequence.fps, sequence.knows_fps) == (5 if pages else 25, False)
    export = export_of(sequence)
    (warning,) = _warnings(export)
    assert warning.startswith("task 5: nothing says how many frames a second its video has, and 25 stand")
    assert provenance(export, "coco", (), ())["sequences"][sequence.name]["fps_known"] is False
    assert FORMATS["coco"].write(export, tmp_path) == []


def test_a_thinned_video_is_named() -> None:
    sequence = sequence_of(correction({"video": "clip.mp4", "fps": 12.5, "video_stride": 4}, "$fps"))
    assert (sequence.fps, sequence.stride, sequence.video_stride) == (12.5, 1, 4)
    export = export_of(sequence)
    (warning,) = _warnings(export)
    assert warning.startswith("task 5: its video was thinned when it was imported, to one frame in 4")
    assert provenance(export, "coco", (), [warning])["sequences"][sequence.name]["video_stride"] == 4


def test_older_tasks_and_pages_name_no_thinned_video() -> None:
    older = correction({"video": "clip.mp4", "fps": 12.5}, "$fps")
    pages = correction({"frames": ["0.jpg"], "fps": 50, "stride": 4, "video_stride": 4}, pages=True)
    assert [sequence_of(one).video_stride for one in (older, pages)] == [1, 1]
    assert sequence_of(pages).fps == 12.5


@pytest.fixture
def gatherer(tmp_path: Path) -> Iterator[Gatherer]:
    def no_tracker() -> Tracker:
        raise AssertionError("nothing is to be filled here")

    settings = Settings(data_dir=tmp_path / "data", local_roots=(tmp_path,))
    database, connections = Database(settings.database), Connections(settings)
    with contextlib.closing(IsolatedDecoder(DEFAULT_LIMITS, lasting=True)) as decoder:
        media = MediaLoader(settings)
        yield Gatherer(settings, ProjectStore(database), media, connections, no_tracker, decoder)
    connections.close()
    database.close()


@pytest.mark.parametrize("data", [{}, {"fps": 24}])
def test_a_video_has_the_rate_of_its_file(gatherer: Gatherer, tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8), RATE)
    known = correction({"video": str(path), **data}, "$fps")
    known = replace(known, media_digest=gatherer._load(known).digest)
    gathered = gatherer.gather(
        [sequence_of(known)], images=True, pages=False, videos=None, report_line=lambda line: None
    )
    assert gathered.omissions == []
    (sequence,) = gathered.sequences
    assert (sequence.fps, sequence.knows_fps) == (RATE, True)
    folder = tmp_path / "out"
    folder.mkdir()
    assert FORMATS["coco"].write(export_of(sequence), folder) == []
    (video,) = json.loads((folder / "annotations.json").read_text())["videos"]
    assert video["fps"] == RATE
