"""Pages that nobody looked at: Label Studio submits them as they came, whatever was answered since.

Its editor keeps what it was first given of a region for as long as the region's page was not shown. So an answer that
replaces regions of a prediction, or of a submitted annotation, reaches the screen, but of a submission only the pages
that its annotator has seen. What was answered last is known here, so it is put in its place: in what is learned from
the annotation, and in Label Studio.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.interactive.request import read_regions
from ml_backend.interactive.state import NOTHING, InstanceState, TaskState, fingerprint
from ml_backend.interactive.store import TaskStateStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.controls import FramesSide
from ml_backend.label_studio.errors import LabelStudioError
from ml_backend.label_studio.region_masks import MASK_TYPES
from ml_backend.label_studio.regions import MaskTrack, tracklet_to_frames_regions
from ml_backend.label_studio.results import Result, instance_id
from steerseg.masks import RLE

log = logging.getLogger(__name__)

_REMEMBERED = 256  # changed annotations whose events are recognised


def with_answers(
    results: Sequence[Mapping[str, Any]], told: TaskState, side: FramesSide, task: int
) -> list[Mapping[str, Any]] | None:
    """The results with the last answer on every page that has an earlier one; ``None`` where there is no such page.

    Pages that the annotator painted have neither, and stay; so does all of an object whose last answer was undone, or
    came too late to be seen.

    Args:
        results: Of an annotation or a draft.
        told: What was answered.
        side: The frames side of the project.
        task: The task's number.

    Raises:
        RegionError: A region is malformed.
    """
    regions = read_regions(results, side, task)
    seen = bool(told.message) and regions.status == told.message
    older: dict[str, list[Result]] = {}
    for place, masks in regions.series.items():
        steered = told.objects.get(place)
        if steered is None or not (seen or _shows_last(steered, masks)):
            continue
        name = instance_id(task, "", place)
        for page, rle in masks.items():
            if _is_older(steered, page, rle):
                older[f"{name}-f{page}"] = _page_regions(steered, page, side, name)
    if not older:
        return None
    changed: list[Mapping[str, Any]] = []
    for item in results:
        number = str(item.get("id"))
        region = next((known for known in older if number == known or number.startswith(f"{known}-")), None)
        if region is None or str(item.get("type", "")).lower() not in (*MASK_TYPES, "labels"):
            changed.append(item)  # also what was said of a region beside its mask
        else:
            changed += older[region]
            older[region] = []
    return changed


def _shows_last(steered: InstanceState, masks: Mapping[int, RLE]) -> bool:
    """Whether some page has the last answer, where that is another one than before."""
    return any(
        len(steered.known.get(page, ())) > 1
        and fingerprint(rle) == fingerprint(steered.shown[page]) != NOTHING
        for page, rle in masks.items()
        if page < len(steered.shown)
    )


def _is_older(steered: InstanceState, page: int, rle: RLE) -> bool:
    """Whether a page has an answer, but not the last one. An empty one may as well be the annotator's."""
    if page >= len(steered.shown) or page in steered.painted:
        return False
    mark = fingerprint(rle)
    return mark not in (NOTHING, fingerprint(steered.shown[page])) and mark in steered.known.get(page, ())


def _page_regions(steered: InstanceState, page: int, side: FramesSide, name: str) -> list[Result]:
    rle = steered.shown[page]
    if rle is None:
        return []
    return tracklet_to_frames_regions(
        MaskTrack((rle,), np.asarray([steered.scores[page]], dtype=np.float32)),
        side,
        instance_id=name,
        expression=steered.expression or steered.label,
        attributes=steered.attributes,
        label=steered.label,
        pages=[page],
    )


class SubmittedPages:
    """Puts answers into annotations that were submitted without them. Safe to share between threads.

    Args:
        store: The database.
        told: What annotators were answered.
        connections: Connections to Label Studio.
    """

    def __init__(self, database: Database, told: TaskStateStore, connections: Connections) -> None:
        self._project_store = ProjectStore(database)
        self._told = told
        self._connections = connections
        self._changed: OrderedDict[int, str] = OrderedDict()

    def complete(
        self, annotation: Mapping[str, Any], project_id: int, task_id: int, label_config: str
    ) -> Mapping[str, Any]:
        """The annotation with the answers that it lacks, which Label Studio is given as well.

        Args:
            annotation: As Label Studio has it.
            project_id: Its project.
            task_id: Its task.
            label_config: The project's labelling configuration.

        Raises:
            ConfigError: The labelling configuration is unusable.
            RegionError: A region is malformed.
            StoreError: The database cannot be read.
        """
        side = parse_controls(label_config).frames
        results = annotation.get("result")
        if side is None or not isinstance(results, list):
            return annotation
        told = self._told.submitted(int(annotation["id"]), side.name)
        changed = None if told is None else with_answers(results, told, side, task_id)
        if told is None or changed is None:
            return annotation
        self._give_back(int(annotation["id"]), project_id, told, side, task_id)
        return {**annotation, "result": changed}

    def is_own_change(self, annotation: Mapping[str, Any]) -> bool:
        """Whether an annotation is as this has changed it last, and not as its annotator has."""
        return self._changed.get(int(annotation.get("id") or 0)) == _digest(annotation.get("result"))

    def _give_back(
        self, number: int, project_id: int, told: TaskState, side: FramesSide, task_id: int
    ) -> None:
        project = self._project_store.find(project_id)
        client = None if project is None else self._connections.client(project)
        if client is None:
            return
        try:
            # As it is there, not as an event says: it may have been changed since, and events can be made up.
            changed = with_answers(client.annotations.get(number).get("result") or [], told, side, task_id)
            if changed is None:
                return
            self._changed[number] = _digest(changed)
            while len(self._changed) > _REMEMBERED:
                self._changed.popitem(last=False)
            client.annotations.update(number, changed)
        except LabelStudioError as error:
            # What is learned from it is right already, and the next look at the project tries again.
            log.warning("annotation %d has not all answers in Label Studio yet: %s", number, error)
        else:
            log.info("annotation %d: pages that nobody looked at have their last answers now", number)


def _digest(results: object) -> str:
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def id_of(value: object) -> int | None:
    """The number of what Label Studio gives as a number or as an object with an ``id``."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, int) and not isinstance(value, bool) else None
