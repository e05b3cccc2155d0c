"""Whether the colours of a project's masks stand out from its pictures, and others where they do not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
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
from ml_backend.label_studio.task import Task, task_value
from ml_backend.label_studio.task_media import MediaLoader, media_limits
from ml_backend.settings import Settings
from steerseg.errors import ArtefactError, VideoError
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
        pictures = _pictures(client, tasks, controls, settings)
    except (VideoError, ArtefactError) as error:
        return ColourReport(warnings=(f"the labels' colours were not compared with the pictures: {error}",))
    choice = choose_colours(config, controls.frames.mask.labels, pictures)
    if not write:
        return _compared(choice)
    if choice.better == choice.present:
        return ColourReport(steps=("the labels have the colours that stand out best",))
    colours = dict(zip(choice.labels, choice.better, strict=True))
    client.projects.update(project, label_config=with_colours(config, colours))
    named = ", ".join(f"{label} {colour}" for label, colour in colours.items())
    return ColourReport(steps=(f"chose label colours that stand out from the pictures: {named}",))


def _compared(choice: ColourChoice) -> ColourReport:
    if not choice.faint:
        return ColourReport(steps=("the labels' colours stand out from the pictures",))
    rows = zip(choice.labels, choice.present, choice.better, strict=True)
    hints = [f"{label} {now} (better {best})" for label, now, best in rows if label in choice.faint]
    return ColourReport(
        warnings=(
            f"label colours hardly stand out from the pictures: {', '.join(hints)}; --colours changes them",
        )
    )


def _pictures(
    client: LabelStudioClient, tasks: list[dict[str, Any]], controls: Controls, settings: Settings
) -> list[NDArray[np.uint8]]:
    """Some pages of some tasks.

    Raises:
        VideoError: They cannot be had.
        ArtefactError: The disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="steerseg-colours-") as folder:
        loader = MediaLoader(settings.model_copy(update={"data_dir": Path(folder)}))
        decoder = IsolatedDecoder(media_limits(settings))
        try:
            return [
                picture
                for task in _some_pages(tasks, controls)
                for picture in decoder.load_video(
                    loader.load(task, controls, MediaHost(client.url, client.auth_headers)).path, fps=1.0
                ).frames
            ]
        finally:
            decoder.close()


def _some_pages(tasks: list[dict[str, Any]], controls: Controls) -> Iterator[Task]:
    """Some of the tasks, with some of their pages alone."""
    assert controls.frames is not None
    key = controls.frames.data_key
    for known in tasks[:: max(1, -(-len(tasks) // _TASKS))]:
        pages = task_value(known["data"], key)
        if isinstance(pages, list) and pages:
            yield Task(int(known["id"]), {key: pages[:: max(1, -(-len(pages) // _PAGES))]})
