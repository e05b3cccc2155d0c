"""A backend whose pages have something to show, without a model: drawn films, proposals, corrections, versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml_backend.corrections.ingestion import Ingestor
from ml_backend.database.tables import JobState, ProposalKey
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.store import JobStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.regions import tracklet_to_frames_regions
from ml_backend.label_studio.results import instance_id
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.predictions.tasks import TaskStore
from ml_backend.proposals import ProposalFiles, StoredMaps, StoredPoint, StoredProposal, StoredTracklet
from ml_backend.refinement.gate import Comparison, GateMetrics
from ml_backend.refinement.version_store import NewVersion
from ml_backend.service import Service
from steerseg.demo.dataset import render_scene
from steerseg.demo.language import referrals
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.masks import encode_rle
from steerseg.prompt_files import with_glossary
from steerseg.statistics import Interval
from steerseg.words.glossary import Entry, Glossary
from tests.support.annotation_samples import event_body

PROJECT = 7
COUNT, HEIGHT, WIDTH = 16, 192, 320
FILMS = 6
VERSION = "steerseg-test"
WORLD = WorldSpec(
    sizes=((HEIGHT, WIDTH),), frames=(COUNT, COUNT), objects=(2, 3), lookalike=0, tint=0, overlap=0, pan=0
)


def fill(service: Service, folder: Path, label_config: str) -> None:
    """Let a service know a project with predicted and annotated tasks.

    Args:
        service: The service; its media loader may read the folder.
        folder: Where the films are written.
        label_config: A configuration with pages.
    """
    service.setup({"project": f"{PROJECT}.1", "schema": label_config, "hostname": "http://127.0.0.1:9"})
    service._projects.note_title(PROJECT, "Sprites that move")
    names = [add_version(service, number) for number in range(2)]
    service.line.versions.promote(PROJECT, names[0], by="eve, on the page")
    films = draw_films(folder)
    for number, (task, (data, masks)) in enumerate(films.items()):
        propose(service, label_config, task, data, masks, score=0.85 - 0.13 * number)
    (first, second, third, *_) = films
    for number, (task, annotator, shift) in enumerate(
        ((first, 1, 6), (first, 2, 2), (second, 2, 0), (third, 1, 9))
    ):
        data, masks = films[task]
        annotate(service, label_config, task, data, np.roll(masks, shift, axis=2), 70 + number, annotator)
    service._completer.complete_all(PROJECT)
    service.reviewer.reviews.accept(70, by="eve, on the page")
    service.reviewer.reviews.give_back(73, "the tail is missing on pages 3 to 6", by="eve, on the page")
    failed = JobStore(service.database).add("propose", "k", project_id=PROJECT, task_id=first, priority=1)
    JobStore(service.database).finish(failed, JobState.FAILED, error="the video holds no frame")


def draw_films(folder: Path) -> dict[int, tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Data of tasks and the masks of what their expression means."""
    atlas = load_atlas(WORLD.styles)
    films: dict[int, tuple[dict[str, Any], NDArray[np.bool_]]] = {}
    seed = 0
    while len(films) < FILMS:
        seed += 1
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, WORLD)
        named = [one for one in referrals(scene, rng, kinds=("explicit",)) if len(one.targets) == 1]
        if not named:
            continue
        pages = folder / str(seed)
        pages.mkdir(parents=True)
        frames, ids = render_scene(scene, atlas)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(pages / f"{index:05d}.jpg", quality=92)
        data = {
            "frames": [str(path) for path in sorted(pages.iterdir())],
            "fps": scene.fps,
            "stride": 1,
            "expression": named[0].expression,
        }
        films[20 + len(films)] = (data, ids == named[0].targets[0] + 1)
    return films


def tracklet_of(masks: NDArray[np.bool_], score: float) -> StoredTracklet:
    """A tracklet that is not certain of one frame."""
    scores = np.full(len(masks), 0.95, dtype=np.float32)
    scores[5] = 0.5
    return StoredTracklet(
        rles=tuple(encode_rle(mask) for mask in masks),
        frame_scores=scores,
        prompt=StoredPoint(0, 0.5, 0.5, 1.0),
        score=score,
    )


def propose(
    service: Service, config: str, task: int, data: dict[str, Any], masks: NDArray[np.bool_], score: float
) -> None:
    """Let a task have been given a proposal, whose second tracklet lies beside the first."""
    settings = service.settings
    media = MediaLoader(settings).load(Task(task, data), parse_controls(config), None)
    grid = [[[float(value) for value in row] for row in mask[::16, ::16]] for mask in masks[[0, COUNT - 1]]]
    proposal = StoredProposal(
        expression=data["expression"],
        attributes=("moving right",),
        tracklets=(tracklet_of(masks, score), tracklet_of(np.roll(masks, 40, axis=2), score - 0.3)),
        maps=StoredMaps((0, COUNT - 1), grid, grid, grid),
        points=(StoredPoint(0, 0.5, 0.5, 1.0),),
        pts=np.arange(COUNT) / float(data["fps"]),
        fps=float(data["fps"]),
        height=HEIGHT,
        width=WIDTH,
        versions={},
    )
    if task == 22:
        jumped = np.concatenate([masks[:9], np.roll(masks[9:], 90, axis=2)])
        proposal = replace(proposal, tracklets=(tracklet_of(jumped, score),))
    key = ProposalKey(media.digest, data["expression"], service.versions(str(PROJECT)).current)
    path = ProposalFiles(settings.data_dir).save(key, proposal)
    ProposalStore(service.database).add(
        key, project_id=PROJECT, task_id=task, path=path, score=score, margin=0.3
    )
    TaskStore(service.database).note(PROJECT, task, data)


def annotate(
    service: Service,
    config: str,
    task: int,
    data: dict[str, Any],
    masks: NDArray[np.bool_],
    number: int,
    annotator: int,
) -> None:
    """Let an annotator submit masks on every page."""
    side = parse_controls(config).frames
    assert side is not None
    tracklet = tracklet_of(masks, 0.8)
    regions = tracklet_to_frames_regions(
        tracklet,
        side,
        instance_id=instance_id(task, "", 0),
        expression=data["expression"],
        label=side.mask.labels[0],
        pages=list(range(COUNT)),
    )
    name = ("", "Ann Example", "Bob Example")[annotator]
    annotation = {
        "id": number,
        "task": task,
        "project": PROJECT,
        "result": [region | {"origin": "prediction-changed"} for region in regions],
        "was_cancelled": False,
        "created_at": f"2026-11-2{annotator}T15:00:00.000000Z",
        "updated_at": "2026-11-22T15:01:00.000000Z",
        "lead_time": 31.0 + 20 * (number - 70),
        "completed_by": annotator,
        "created_username": f"{name} {annotator}@example.org, {annotator}",
    }
    body = event_body("ANNOTATION_CREATED", annotation, data=data, config=config)
    body["task"]["id"] = task
    body["project"] = {"id": PROJECT, "label_config": config}
    service.webhook(body)
    ingestor: Ingestor = service.ingestor
    ingestor.catch_up()


def add_version(service: Service, number: int) -> str:
    """A version that the gate kept back."""
    line = service.line
    made = service.settings.data_dir / f"made-{number}"
    digest = with_glossary(None, Glossary(entries=(Entry(term=f"word{number}", meaning="ball"),)), made)
    lost = Interval(-0.302, -0.41, -0.02, 5)
    new = NewVersion(
        path=line.keep(made, digest),
        digest=digest,
        model=line.model,
        origin="refined",
        parent_id=None,
        curve=[1.0 / (step + 1) for step in range(40)],
        metrics=GateMetrics(
            held_out=Comparison(5, 0.348, 0.65, lost), regression=Comparison(9, 0.8, 0.8, lost)
        ),
        reason="the gain is below 0.5 points. On 5 held-out videos: J&F 65.0 → 34.8, −30.2 points [−41.0, −2.0]",
        kept_back=True,
    )
    return line.versions.add(PROJECT, new).name
