"""A small world for refinements: a preset of tiny random models, films of a moving square, and corrections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ml_backend.corrections.annotation_store import AnnotationState, AnnotationStore
from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.records import (
    Completion,
    DecidedFrame,
    Decision,
    Evidence,
    FrameCorrection,
    ProposalReference,
)
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.media_access import MediaHost, MediaUnavailableError
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.models.examples import CorrectionExample, Pool, TaskRef
from steerseg.demo.sam2 import build_sam2, save_sam2
from steerseg.masks import encode_rle
from steerseg.soft_prompts import SoftPrompts
from tests.conftest import SMALL_SAM2, save_tiny_lvlm

HEIGHT, WIDTH, FRAMES = 28, 56, 4
LABEL_CONFIG = (
    '<View><Image name="frames" valueList="$frames"/><BrushLabels name="mask" toName="frames">'
    '<Label value="object"/></BrushLabels></View>'
)
TIME = datetime(2026, 11, 22, tzinfo=UTC)


def save_preset(
    folder: Path,
    *,
    steps: int = 6,
    soft_prompts: bool = True,
    replay: tuple[int, int] | None = (2, 2),
    refinement: Mapping[str, Any] | None = None,
) -> Path:
    """Write a preset of small random models in the real layouts, whose refinements take moments."""
    save_tiny_lvlm(folder / "lvlm")
    torch.manual_seed(1)
    model = build_sam2(SMALL_SAM2)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(8.0)
    save_sam2(model.state_dict(), SMALL_SAM2, folder / "sam2")
    card: dict[str, Any] = {
        "name": "tiny",
        "lvlm": "lvlm",
        "sam2": "sam2",
        "keyframes": 4,
        "video_tokens": 8,
        "pipeline": {"max_new_tokens": 3, "alternatives": 2, "max_candidates": 2},
        "refinement": {
            "training": {"steps": steps, "warmup": 1, "learning_rate": 0.05},
            "batch": 2,
            "frames_per_sample": 1,
            "pictures": 2,
            "tokens": 3,
            "min_held_out": 2,
            **(refinement or {}),
        },
    }
    if soft_prompts:
        generator = torch.Generator().manual_seed(2)
        pair = SoftPrompts(torch.randn(3, 32, generator=generator), torch.randn(3, 32, generator=generator))
        pair.save(folder / "soft_prompts")
        card["soft_prompts"] = "soft_prompts"
    if replay is not None:
        save_replay(folder / "replay", sum(replay))
        card["replay"] = {"source": "replay", "training": replay[0], "held_out": replay[1]}
    (folder / "preset.json").write_text(json.dumps(card))
    return folder


def film(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames (T, H, W, 3) of a bright square on noise, and its masks (T, H, W)."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 80, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), dtype=bool)
    top, left = int(rng.integers(2, 14)), int(rng.integers(2, 30))
    for index in range(FRAMES):
        masks[index, top : top + 12, left + 2 * index : left + 2 * index + 14] = True
    frames[masks] = rng.integers(150, 255, 3)
    return frames, masks


def save_film(folder: Path, seed: int) -> NDArray[np.bool_]:
    """Write a film as a folder of pictures; return its masks."""
    frames, masks = film(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:03d}.png")
    return masks


def save_replay(root: Path, count: int) -> None:
    """Write films as a dataset in Ref-YouTube-VOS layout."""
    videos = {}
    for number in range(count):
        name = f"clip{number}"
        frames, masks = film(1000 + number)
        for part in ("JPEGImages", "Annotations"):
            (root / "train" / part / name).mkdir(parents=True)
        for index in range(FRAMES):
            file = f"{index:05d}"
            Image.fromarray(frames[index]).save(root / "train" / "JPEGImages" / name / f"{file}.jpg")
            Image.fromarray(masks[index].astype(np.uint8)).save(
                root / "train" / "Annotations" / name / f"{file}.png"
            )
        videos[name] = {
            "frames": [f"{index:05d}" for index in range(FRAMES)],
            "expressions": {"0": {"exp": "the square", "obj_id": "1"}},
        }
    listing = root / "meta_expressions" / "train" / "meta_expressions.json"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"videos": videos}))


def example(number: int, masks: NDArray[np.bool_], **changes: Any) -> CorrectionExample:
    """An example of a film."""
    fields: dict[str, Any] = {
        "key": f"c{number}",
        "correction": number,
        "revision": f"r{number}",
        "video": f"film{number}",
        "group": f"film{number}",
        "expression": "the bright square",
        "pool": Pool.NEW,
        "weight": 1.0,
        "truth": {index: encode_rle(mask) for index, mask in enumerate(masks)},
        "shares": dict.fromkeys(range(len(masks)), 1.0),
        "decided": frozenset(range(len(masks))),
        "rejected": (),
        "num_frames": len(masks),
        "height": HEIGHT,
        "width": WIDTH,
        "task": TaskRef(number, {"film": f"film{number}"}, LABEL_CONFIG),
    }
    return CorrectionExample(**{**fields, **changes})


@dataclass
class FilmLoader:
    """Loads the media of tasks from a folder of films.

    Attributes:
        root: Where they are; a task's data names the film.
    """

    root: Path

    def load(self, task: Task, controls: Controls, host: MediaHost | None) -> Media:
        folder = self.root / str(task.data["film"])
        if not folder.is_dir():
            raise MediaUnavailableError("the film is gone", status=404)
        return Media(folder, f"digest-of-{folder.name}", fps=5.0, frames=controls.frames)


def add_corrections(database: Database, project: int, films: Path, numbers: range) -> None:
    """Give a project one corrected task for each film, as if annotators had drawn the true masks."""
    for number in numbers:
        masks = save_film(films / f"film{number}", number)
        correct(database, project, number, masks)


def make_world(root: Path, preset: Path, *, projects: tuple[int, ...] = (1,), films: int = 5) -> Path:
    """A folder with a preset, films and a data folder with corrections of them."""
    root.mkdir(exist_ok=True)
    if not (root / "preset").exists():
        (root / "preset").symlink_to(preset)
    database = Database(root / "data" / "store.sqlite")
    for project in projects:
        ProjectStore(database).save(
            project, uid=str(project), label_config="<View/>", hostname="", extra_params={}
        )
        first = 100 * project
        add_corrections(database, project, root / "films", range(first, first + films))
    database.close()
    return root


def correct(
    database: Database,
    project: int,
    number: int,
    masks: NDArray[np.bool_],
    *,
    proposed: ProposalReference | None = None,
    touched: bool = True,
    source: str | None = None,
) -> None:
    """Store one usable correction of a film.

    Args:
        database: The database.
        project: The project.
        number: Of the film.
        masks: (T, H, W) bool, what was accepted.
        proposed: The proposal that it began from.
        touched: Whether the annotator changed it.
        source: The file that the task was imported from, where an import says it.
    """
    rles = [encode_rle(mask) for mask in masks]
    identity = 10_000 * project + number
    decision = Decision(
        object="object",
        expression="the bright square",
        side="frames",
        frames={index: DecidedFrame(rle, (), True) for index, rle in enumerate(rles)},
        absent_elsewhere=False,
        erased=False,
        verdict=None,
        proposed_expression=None,
        parent_prediction=None,
        task_data={"film": f"film{number}", **({} if source is None else {"source": source})},
        label_config=LABEL_CONFIG,
        lead_time=10.0,
        created_at=TIME,
        updated_at=TIME,
    )
    state = AnnotationState(identity, project, identity, TIME, "digest", False, (decision,))
    annotations, completions = AnnotationStore(database), CompletionStore(database)
    known = annotations.known(project)
    annotations.reconcile(project, [*known, identity], [state], datetime.now(UTC))
    for pending in completions.pending(project):
        frames = {
            index: FrameCorrection(Evidence.MASK, rle, (), touched=touched, weight=1.0, iou=None)
            for index, rle in enumerate(rles)
        }
        completions.complete(
            pending,
            Completion(f"digest-of-film{number}", FRAMES, HEIGHT, WIDTH, frames, {}, proposed),
            propagated=True,
        )
