"""A backend that completes corrections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import update

from ml_backend.corrections.completion import Completer
from ml_backend.corrections.records import Correction, Problem
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import ProposalKey, ProposalRow
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.media_access import MediaError, MediaHost
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Media
from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.proposals import ProposalFiles, StoredMaps, StoredPoint, StoredProposal, StoredTracklet
from steerseg.masks import decode_rle, encode_rle, mask_area
from steerseg.video.player import PlayerTimeline
from tests.support import mask_targets
from tests.support.annotation_samples import (
    HEIGHT,
    PAGES,
    VIDEO_CONFIG,
    VIDEO_DATA,
    WIDTH,
    annotation,
    event_body,
    frames_config,
    mask_regions,
    square,
)
from tests.support.ingesting import Ingesting

DIGEST = "d1ge57"


WORDS = "the red ball"


VERSION = "v1"


PROPOSED_AT = datetime(2026, 11, 22, 14, tzinfo=UTC)
"""An hour before the first annotation."""


class LocalMedia:
    """A folder of pages, or a video that is only a name; or trouble, as long as there is some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.video, self.folder_name = "video", "pages"
        self.trouble: MediaError | None = None
        self.pages = PAGES
        self.size = WIDTH, HEIGHT
        self.timeline: PlayerTimeline | None = None

    def load(self, task: Task, controls: Controls, host: MediaHost | None) -> Media:
        if self.trouble is not None:
            raise self.trouble
        if controls.frames is None:
            return Media(self.folder / self.video, DIGEST, video=controls.video, timeline=self.timeline)
        pages = self.folder / self.folder_name
        pages.mkdir(exist_ok=True)
        for page in range(self.pages):
            Image.new("RGB", self.size).save(pages / f"{page:05}.jpg")
        return Media(pages, DIGEST, frames=controls.frames)


@pytest.fixture(scope="module")
def executor() -> Iterator[ModelExecutor]:
    made: ModelExecutor = Executor.local([mask_targets.masking], max_attempts=1)
    yield made
    made.close()


class Completing(Ingesting):
    """Ingestion and completion over a database of their own."""

    def __init__(self, folder: Path, executor: ModelExecutor, **given: Any) -> None:
        super().__init__(folder / "data", **given)
        self.executor = executor
        self.media = LocalMedia(folder)
        self.completer = Completer(
            self.settings, self.database, self.media, self.ingestor._connections, executor
        )
        ProjectStore(self.database).save(
            1, uid="1", label_config=frames_config(), hostname="http://127.0.0.1:1", extra_params={}
        )

    def propose(
        self,
        masks: list[NDArray[np.bool_]],
        *others: list[NDArray[np.bool_]],
        version: str = VERSION,
        expression: str = WORDS,
    ) -> StoredProposal:
        """Let the task have been given a proposal, before anybody submitted it."""
        proposal = StoredProposal(
            expression=expression,
            attributes=(),
            tracklets=tuple(
                StoredTracklet(
                    rles=tuple(encode_rle(mask) for mask in some),
                    frame_scores=np.full(len(some), 0.9, dtype=np.float32),
                    prompt=StoredPoint(0, 0.5, 0.5, 1.0),
                    score=0.8 - rank / 10,
                )
                for rank, some in enumerate((masks, *others))
            ),
            maps=StoredMaps((0,), None, None, [[[0.0]]]),
            points=(),
            pts=np.arange(len(masks)) / 25,
            fps=25.0,
            height=HEIGHT,
            width=WIDTH,
            versions={},
        )
        key = ProposalKey(DIGEST, expression, version)
        path = ProposalFiles(self.settings.data_dir).save(key, proposal)
        ProposalStore(self.database).add(key, project_id=1, task_id=5, path=path, score=0.8)
        with self.database.writing() as session:
            session.execute(update(ProposalRow).values(created_at=PROPOSED_AT))
        return proposal

    def submit(self, results: list[dict[str, Any]], number: int = 7, **fields: Any) -> None:
        """Let an annotator submit an annotation of pages."""
        self.receive([event_body("ANNOTATION_CREATED", annotation(results, number, **fields))])
        self.ingestor.catch_up()

    def submit_video(self, results: list[dict[str, Any]], number: int = 7, **fields: Any) -> None:
        body = event_body(
            "ANNOTATION_CREATED", annotation(results, number, **fields), data=VIDEO_DATA, config=VIDEO_CONFIG
        )
        self.receive([body])
        self.ingestor.catch_up()

    def complete(self) -> list[Correction]:
        self.completer.complete_all(patiently=False)
        return self.corrections.corrections(1)

    def problem(self) -> tuple[Problem, str]:
        (found,) = self.corrections.list_set_aside(1)
        return found.problem, found.reason


def moving(count: int = PAGES, start: int = 2, hidden: tuple[int, ...] = ()) -> list[NDArray[np.bool_]]:
    """A square that moves to the right."""
    return [square(start + 2 * i) if i not in hidden else np.zeros_like(square(0)) for i in range(count)]


def regions(proposal: StoredProposal, kind: str = "brush", rank: int = 0) -> list[dict[str, Any]]:
    """The mask regions of a prediction, as Label Studio gives them back untouched."""
    masks = {i: decode_rle(rle) for i, rle in enumerate(proposal.tracklets[rank].rles) if mask_area(rle)}
    return mask_regions(masks, kind)
