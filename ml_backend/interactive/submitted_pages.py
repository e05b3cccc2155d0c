"""Pages of a submission that were not shown to the annotator: they get the last answer.

Label Studio's editor keeps the first version of a region for as long as the region's page was not shown. An answer
that replaces regions of a prediction, or of a submitted annotation, therefore reaches the screen; but a submission
holds it only on the pages that were shown. The backend knows its last answer, so it writes that one to the other
pages: in the corrections that it reads from the annotation, and in Label Studio.

An annotator may also submit while an answer is on its way. The answer is put into the annotation then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.interactive.mask_regions import read_mask_regions
from ml_backend.interactive.state import EMPTY_MASK, InstanceState, TaskState, mask_digest
from ml_backend.interactive.store import TaskStateStore
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.controls import FramesSide
from ml_backend.label_studio.errors import LabelStudioError
from ml_backend.label_studio.region_masks import MASK_TYPES
from ml_backend.label_studio.regions import MaskTrack, tracklet_to_frames_regions
from ml_backend.label_studio.results import Result, ResultItem, instance_id
from ml_backend.models.geometry import mask_iou
from steerseg.masks import RLE
from steerseg.runtime.lru import LruCache

log = logging.getLogger(__name__)

_SAME_OUTLINE = 0.985
"""A mask that overlaps the answer by as much was not changed: outlines lose up to 1 % on their way and back."""

_REMEMBERED_CHANGES = 256  # changed annotations whose events are recognised


def with_last_answers(
    results: Sequence[Mapping[str, Any]], task: TaskState, side: FramesSide, task_id: int
) -> list[Mapping[str, Any]] | None:
    """Put the last answer on every page that has an earlier one.

    Pages that the annotator painted have neither and stay as they are. So does an instance whose last answer was
    undone, or came too late to be seen.

    Args:
        results: The results of an annotation or a draft.
        task: The state of the task.
        side: The frames side of the project.
        task_id: The task's id.

    Returns:
        The changed results; ``None`` where no page has an earlier answer.

    Raises:
        RegionError: A region is malformed.
    """
    regions = read_mask_regions(results, side, task_id)
    seen = bool(task.message) and regions.status == task.message
    outdated: dict[str, list[Result]] = {}
    for index, masks in regions.instances.items():
        instance = task.instances.get(index)
        if instance is None or not (seen or _shows_last_answer(instance, masks)):
            continue
        name = instance_id(task_id, "", index)
        for page, mask in masks.items():
            if _is_outdated(instance, page, mask):
                outdated[f"{name}-f{page}"] = _page_regions(instance, page, side, name)
    if not outdated:
        return None
    changed: list[Mapping[str, Any]] = []
    for item in map(ResultItem, results):
        region = next((name for name in outdated if item.id == name or item.id.startswith(f"{name}-")), None)
        if region is None or item.type.lower() not in (*MASK_TYPES, "labels"):
            changed.append(item.raw)  # also choices and texts beside a region
        else:
            changed += outdated[region]
            outdated[region] = []
    return changed


def with_late_answer(
    results: Sequence[Mapping[str, Any]], answer: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Put an answer into an annotation that was submitted without it.

    Args:
        results: The results of the annotation.
        answer: The results of the answer; they replace those of the same ids, and the texts of the same fields.
    """
    items = [ResultItem(result) for result in answer]
    regions = {item.id for item in items if item.type != "textarea"}
    fields = {item.control for item in items if item.type == "textarea" and item.id not in regions}
    kept = [
        item.raw
        for item in map(ResultItem, results)
        if item.id not in regions and not (item.type == "textarea" and item.control in fields)
    ]
    return [*kept, *answer]


def with_true_origins(
    results: Sequence[Mapping[str, Any]], task: TaskState, side: FramesSide, task_id: int
) -> list[Mapping[str, Any]]:
    """The results, with regions that are as they were answered marked as the backend's own.

    Label Studio takes an answer that was accepted by itself for drawn by hand. Pages that the annotator painted, or
    where a click or box was set, are the annotator's.

    Args:
        results: The results of an annotation.
        task: The state of the task.
        side: The frames side of the project.
        task_id: The task's id.

    Raises:
        RegionError: A region is malformed.
    """
    regions = read_mask_regions(results, side, task_id)
    origins: dict[str, float] = {}
    exact = side.mask.kind in ("brush", "bitmask")
    for index, masks in regions.instances.items():
        instance = task.instances.get(index)
        if instance is not None:
            name = instance_id(task_id, "", index)
            prompted = {prompt.frame for prompt in instance.prompts}
            origins |= {
                f"{name}-f{page}": _certainty(instance, page)
                for page, mask in masks.items()
                if page not in prompted and _is_answer(instance, page, mask, exact=exact)
            }
    return [_with_origin(item, origins) for item in map(ResultItem, results)]


def _with_origin(item: ResultItem, origins: Mapping[str, float]) -> Mapping[str, Any]:
    name = next((name for name in (item.id, item.id.rpartition("-")[0]) if name in origins), None)
    if name is None or item.type.lower() not in MASK_TYPES:
        return item.raw
    return {**item.raw, "origin": "prediction", "score": origins[name]}


def _certainty(instance: InstanceState, page: int) -> float:
    """How certain the last answer is of a page, in [0, 1]: that the instance is there, or that it is not."""
    score = min(max(instance.scores[page], 0.0), 1.0) if page < len(instance.scores) else 1.0
    return score if mask_digest(instance.masks[page]) != EMPTY_MASK else round(1.0 - score, 4)


def _is_answer(instance: InstanceState, page: int, mask: RLE, *, exact: bool) -> bool:
    """Whether a page has the last answer as it was given; outlines only come near to a mask."""
    if page >= len(instance.masks) or page in instance.painted:
        return False
    last = instance.masks[page]
    if mask_digest(mask) == mask_digest(last):
        return True
    return (
        not exact
        and last is not None
        and last["size"] == mask["size"]
        and mask_iou(last, mask) >= _SAME_OUTLINE
    )


def _shows_last_answer(instance: InstanceState, masks: Mapping[int, RLE]) -> bool:
    """Whether some page has the last answer, where that differs from the answers before."""
    return any(
        len(instance.answered.get(page, ())) > 1
        and mask_digest(mask) == mask_digest(instance.masks[page]) != EMPTY_MASK
        for page, mask in masks.items()
        if page < len(instance.masks)
    )


def _is_outdated(instance: InstanceState, page: int, mask: RLE) -> bool:
    """Whether a page has an answer, but not the last one. An empty mask may as well be the annotator's."""
    if page >= len(instance.masks) or page in instance.own_pages:
        return False
    digest = mask_digest(mask)
    last = mask_digest(instance.masks[page])
    return digest not in (EMPTY_MASK, last) and digest in instance.answered.get(page, ())


def _page_regions(instance: InstanceState, page: int, side: FramesSide, name: str) -> list[Result]:
    mask = instance.masks[page]
    if mask is None:
        return []
    return tracklet_to_frames_regions(
        MaskTrack((mask,), np.asarray([instance.scores[page]], dtype=np.float32)),
        side,
        instance_id=name,
        expression=instance.expression or instance.label,
        attributes=instance.attributes,
        label=instance.label,
        pages=[page],
    )


@dataclass(frozen=True)
class _Submission:
    """A submission.

    Attributes:
        annotation: Label Studio's number of the annotation.
        annotator: Label Studio's number of the person.
        time: When it was noted, by :func:`time.monotonic`.
    """

    annotation: int
    annotator: int
    time: float


class SubmittedPages:
    """Writes answers to annotations that were submitted without them. Safe to share between threads.

    Args:
        database: The database.
        states: The states of tasks.
        connections: Connections to Label Studio.
    """

    def __init__(self, database: Database, states: TaskStateStore, connections: Connections) -> None:
        self._projects = ProjectStore(database)
        self._states = states
        self._connections = connections
        self._lock = threading.Lock()
        self._changes: LruCache[int, str] = LruCache(_REMEMBERED_CHANGES)
        self._submissions: LruCache[tuple[int, int], _Submission] = LruCache(_REMEMBERED_CHANGES)

    def complete(
        self, annotation: Mapping[str, Any], project_id: int, task_id: int, label_config: str
    ) -> Mapping[str, Any]:
        """The annotation with the last answers that it lacks, and with the true origin of each region.

        Label Studio gets the last answers as well.

        Args:
            annotation: The annotation as Label Studio has it.
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
        number = int(annotation["id"])
        task = self._states.submitted(number, side.name)
        if task is None:
            return annotation
        changed = with_last_answers(results, task, side, task_id)
        if changed is not None:
            self._write(number, project_id, task, side, task_id)
        return {**annotation, "result": with_true_origins(changed or results, task, side, task_id)}

    def note_submission(self, annotation_id: int, project_id: int, task_id: int, annotator: int) -> None:
        """Remember a submission, for answers that are on their way."""
        with self._lock:
            submission = _Submission(annotation_id, annotator, time.monotonic())
            self._submissions.put((project_id, task_id), submission)

    def submitted_since(
        self, started: float, project_id: int, task_id: int, annotator: int | None
    ) -> int | None:
        """The annotation in which an annotator submitted a task since a time; ``None`` where nobody did.

        Args:
            started: The time, by :func:`time.monotonic`.
            project_id: The project.
            task_id: The task.
            annotator: Label Studio's number of the person; ``None`` where it is not known.
        """
        with self._lock:
            submission = self._submissions.get((project_id, task_id))
        if submission is None or submission.time < started or annotator not in (None, submission.annotator):
            return None
        return submission.annotation

    def add_answer(
        self, number: int, project_id: int, task_id: int, answer: Sequence[Mapping[str, Any]]
    ) -> None:
        """Put an answer into an annotation that was submitted while it was on its way.

        Args:
            number: Label Studio's number of the annotation.
            project_id: Its project.
            task_id: Its task.
            answer: The results of the answer.

        Raises:
            LabelStudioError: Label Studio cannot be asked, or refuses the change.
            StoreError: The database cannot be used.
        """
        client = self._client(project_id)
        if client is None:
            raise LabelStudioError("no Label Studio is connected that could take it")
        submission = self._submissions.get((project_id, task_id))
        if submission is not None:
            self._states.submit(number, project_id, task_id, submission.annotator)
        changed = with_late_answer(client.annotations.get(number).get("result") or [], answer)
        with self._lock:
            self._changes.put(number, _digest(changed))
        client.annotations.update(number, changed)
        log.info("annotation %d: the answer that came after its submission was put into it", number)

    def is_own_change(self, annotation: Mapping[str, Any]) -> bool:
        """Whether an annotation is as this object wrote it last, and not as its annotator has it."""
        with self._lock:
            written = self._changes.get(int(annotation.get("id") or 0))
        return written == _digest(annotation.get("result"))

    def _write(self, number: int, project_id: int, task: TaskState, side: FramesSide, task_id: int) -> None:
        client = self._client(project_id)
        if client is None:
            return
        try:
            # Label Studio's own copy counts: it may be newer than an event, and events can be made up.
            results = client.annotations.get(number).get("result") or []
            changed = with_last_answers(results, task, side, task_id)
            if changed is None:
                return
            with self._lock:
                self._changes.put(number, _digest(changed))
            client.annotations.update(number, changed)
        except LabelStudioError as error:
            # The corrections are right already, and the next look at the project tries again.
            log.warning("annotation %d lacks last answers in Label Studio: %s", number, error)
        else:
            log.info("annotation %d: pages that were not shown have their last answers now", number)

    def _client(self, project_id: int) -> LabelStudioClient | None:
        project = self._projects.find(project_id)
        return None if project is None else self._connections.client(project)


def _digest(results: object) -> str:
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def id_of(value: object) -> int | None:
    """The id of what Label Studio sends as a number or as an object with an ``id``."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, int) and not isinstance(value, bool) else None
