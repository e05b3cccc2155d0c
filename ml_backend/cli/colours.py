"""Whether the colours of a project's masks stand out from its pictures and objects, and others where they do not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.label_colours import ColourChoice, choose_colours, with_colours
from ml_backend.label_studio.media_access import MediaHost
from ml_backend.label_studio.region_masks import RegionError, masks_by_page, page_masks
from ml_backend.label_studio.task import Task, task_value
from ml_backend.label_studio.task_media import MediaLoader, media_limits
from ml_backend.settings import Settings
from steerseg.errors import ArtefactError, VideoError
from steerseg.masks import decode_rle
from steerseg.video.isolation import IsolatedDecoder

_LISTED, _TASKS, _PAGES = 200, 6, 2
"""Of the first so many tasks, so many are looked at, and so many pages of each."""


@dataclass(frozen=True)
class ColourReport:
    """What was found and done about colours, for people.

    Attributes:
        steps: What was found and done.
        warnings: What still deserves a look.
    """

    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def compare_colours(
    client: LabelStudioClient, project: int, settings: Settings, *, write: bool
) -> ColourReport:
    """Compare the colours of a project's mask labels with some of its pictures.

    Args:
        client: Connection to Label Studio.
        project: Number of the project; one without masks or without tasks has nothing to compare.
        settings: How media are reached.
        write: Whether better colours are written into the labelling configuration; they are named otherwise.

    Raises:
        ConfigError: The labelling configuration cannot be used, or not be changed.
        LabelStudioError: Label Studio cannot be asked, or refuses the change.
    """
    config = str(client.projects.get(project)["label_config"])
    controls = parse_controls(config)
    if controls.frames is None:
        return ColourReport()
    tasks = list(islice(client.tasks.of_project(project), _LISTED))
    if not tasks:
        asked = ("no colours were chosen: the project has no tasks yet",) if write else ()
        return ColourReport(warnings=asked)
    try:
        pictures, objects = _pictures(client, tasks, controls, settings)
    except (VideoError, ArtefactError) as error:
        return ColourReport(warnings=(f"the labels' colours were not compared with the pictures: {error}",))
    choice = choose_colours(config, controls.frames.mask.labels, pictures, objects)
    what = "the pictures and the objects in them" if objects else "the pictures"
    if not write:
        return _compared(choice, what)
    if choice.better == choice.present:
        return ColourReport(steps=("the labels have the colours that stand out best",))
    colours = dict(zip(choice.labels, choice.better, strict=True))
    client.projects.update(project, label_config=with_colours(config, colours))
    named = ", ".join(f"{label} {colour}" for label, colour in colours.items())
    return ColourReport(steps=(f"chose label colours that stand out from {what}: {named}",))


def _compared(choice: ColourChoice, what: str) -> ColourReport:
    if not choice.faint:
        return ColourReport(steps=(f"the labels' colours stand out from {what}",))
    rows = zip(choice.labels, choice.present, choice.better, strict=True)
    hints = [f"{label} {now} (better {best})" for label, now, best in rows if label in choice.faint]
    return ColourReport(
        warnings=(f"label colours hardly stand out from {what}: {', '.join(hints)}; --colours changes them",)
    )


def _pictures(
    client: LabelStudioClient, tasks: list[dict[str, Any]], controls: Controls, settings: Settings
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Some pages of some tasks, and the pixels below the masks that they have.

    Raises:
        VideoError: They cannot be had.
        ArtefactError: The disk is full.
        LabelStudioError: Label Studio cannot be asked.
    """
    pictures, objects = [], []
    with tempfile.TemporaryDirectory(prefix="steerseg-colours-") as folder:
        loader = MediaLoader(settings.model_copy(update={"data_dir": Path(folder)}))
        decoder = IsolatedDecoder(media_limits(settings))
        try:
            for known, task, step in _some_pages(tasks, controls):
                media = loader.load(task, controls, MediaHost(client.url, client.auth_headers))
                frames = decoder.load_video(media.path, fps=1.0).frames
                pictures += list(frames)
                masks = _masks(client, known)
                for index, picture in enumerate(frames):
                    mask = masks.get(index * step)
                    if mask is not None and mask.shape == picture.shape[:2] and mask.any():
                        objects.append(picture[mask])
        finally:
            decoder.close()
    return pictures, objects


def _masks(client: LabelStudioClient, known: Mapping[str, Any]) -> dict[int, NDArray[np.bool_]]:
    """By page, the (H, W) mask of all objects in a task's newest annotation, or else in its newest prediction."""
    if not (known.get("total_annotations") or known.get("total_predictions")):
        return {}
    task = client.tasks.get(int(known["id"]))
    for made in (*reversed(task.get("annotations") or ()), *reversed(task.get("predictions") or ())):
        try:
            masks = masks_by_page(page_masks(made.get("result") or ()))
        except RegionError:
            continue  # it is told where the annotation is read
        if masks:
            return {page: decode_rle(rle) for page, rle in masks.items()}
    return {}


def _some_pages(
    tasks: list[dict[str, Any]], controls: Controls
) -> Iterator[tuple[Mapping[str, Any], Task, int]]:
    """Some of the tasks, each with a task of some of its pages alone, and how many pages lie from one to the next."""
    assert controls.frames is not None
    key = controls.frames.data_key
    for known in tasks[:: max(1, -(-len(tasks) // _TASKS))]:
        pages = task_value(known["data"], key)
        if isinstance(pages, list) and pages:
            step = max(1, -(-len(pages) // _PAGES))
            yield known, Task(int(known["id"]), {key: pages[::step]}), step
