"""Videos -> tasks of a Label Studio project: pages as JPEG frames, videos that a browser plays.

Frames are numbered in decode order, page 0 first; every frame is taken, or one in ``stride``. Nothing is
dropped silently: what cannot be imported, and what was passed over, is listed in the report.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ml_backend.importing.media import MediaFolder, media_name
from ml_backend.importing.pages import PageOptions, write_pages
from ml_backend.importing.playable import video_stride, write_playable
from ml_backend.importing.sources import sources_of_table, sources_with_expression
from ml_backend.importing.strides import Cut, split
from ml_backend.importing.text_files import list_problems
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import Controls, FramesSide, VideoSide
from ml_backend.label_studio.errors import LabelStudioError
from ml_backend.label_studio.task_media import FIRST_FRAME_KEY, VIDEO_STRIDE_KEY
from steerseg.errors import ConfigError, VideoError
from steerseg.video import DEFAULT_LIMITS, VideoLimits
from steerseg.video.isolation import IsolatedDecoder

TaskKind = Literal["auto", "frames", "video", "both"]


Progress = Callable[[str, float], None]
"""Called with the name of a video and the fraction in [0, 1] of the whole import that is done."""

MAX_PAGES = 100
"""Pages a task: with more, Label Studio's editor freezes for seconds at every submit."""

DEFAULT_CUT = Cut(stride=1, max_pages=MAX_PAGES)
"""Every frame is taken, and a video with more than :data:`MAX_PAGES` pages is refused."""

_CREATED_AT_ONCE = 100


@dataclass(frozen=True)
class PreparedTask:
    """One task before it is imported.

    Attributes:
        source: The video that it was made from.
        data: The task's data.
        pages: Frames written, or 0 for a task without pages.
        note: What was done to the video, if anything ("re-encoded: ...").
        part: Which part of the video it is ("part 2 of 5"); empty for a whole one.
    """

    source: Path
    data: dict[str, Any] = field(repr=False)
    pages: int
    note: str = ""
    part: str = ""


@dataclass(frozen=True)
class PreparedTasks:
    """The tasks of an import before they are made.

    Attributes:
        tasks: In the order of their videos.
        problems: What was asked for and cannot be imported, each with the reason.
        passed_over: Files in the folders that were given which are not imported, each with the reason.
    """

    tasks: tuple[PreparedTask, ...]
    problems: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        tasks: Ids of the new tasks, in order.
        prepared: What each task consists of.
        warnings: What may keep annotators from seeing them.
        problems: What was asked for and was not imported, each with the reason.
        passed_over: Files in the folders that were given which were not imported, each with the reason.
    """

    tasks: tuple[int, ...]
    prepared: tuple[PreparedTask, ...]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line a task, for people."""
        lines = []
        for task, item in zip(self.tasks, self.prepared, strict=True):
            what = f"{item.pages} pages" if item.pages else "video"
            expression = item.data.get("expression", "")
            lines.append(
                f"task {task}: {item.source.name} ({', '.join(filter(None, (item.part, what)))})"
                + (f' "{expression}"' if expression else "")
                + (f"; {item.note}" if item.note else "")
            )
        return lines


def import_videos(
    client: LabelStudioClient,
    project: int,
    sources: Sequence[str | Path] = (),
    *,
    media_dir: Path,
    document_root: Path,
    expression: str | None = None,
    csv_file: Path | None = None,
    kind: TaskKind = "auto",
    cut: Cut = DEFAULT_CUT,
    fps: float | None = None,
    expression_key: str = "expression",
    limits: VideoLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> ImportReport:
    """Import videos as tasks: those that can be used; the report lists the others.

    No task is made before every video is prepared.

    Args:
        client: Connection to Label Studio.
        project: The project's id; its labelling configuration says what its tasks consist of.
        sources: Video files, folders (of videos or of frames) and glob patterns; empty with ``csv_file``.
        media_dir: Where frames and videos are written; a Local Files storage must cover it (see ``connect``).
        document_root: Label Studio's ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``, which ``media_dir`` lies below.
        expression: What to track in all of them; ``None`` leaves it to the project's default.
        csv_file: Table with columns ``video``, ``expression`` and perhaps ``stride``; several rows with one video are
            several tasks. Paths are relative to the table.
        kind: Pages, videos or both; ``auto`` is what the project can show.
        cut: Which frames are taken, and how long videos are split.
        fps: Frame rate of folders of frames (25 if not given); files have their own.
        expression_key: Key of the task's data that holds the expression.
        limits: What a video may cost.
        progress: Called now and then; may raise to stop.

    Raises:
        ConfigError: The project cannot show such tasks, or the folders do not fit each other.
        VideoError: No video can be used; the message lists all of them.
        ExpressionError: The expression is empty, or no row of the table can be used.
        LabelStudioError: Label Studio refuses; the message says how many tasks were made before.
    """
    controls = parse_controls(str(client.projects.get(project)["label_config"]))
    ready = prepare_tasks(
        controls,
        sources,
        media_dir=media_dir,
        document_root=document_root,
        expression=expression,
        csv_file=csv_file,
        kind=kind,
        cut=cut,
        fps=fps,
        expression_key=expression_key,
        limits=limits,
        progress=progress,
    )
    made = _create(client, project, ready.tasks, progress)
    warnings = _unserved(client, project, media_dir, document_root)
    return ImportReport(made, ready.tasks, warnings, ready.problems, ready.passed_over)


def _create(
    client: LabelStudioClient, project: int, prepared: Sequence[PreparedTask], progress: Progress | None
) -> tuple[int, ...]:
    """Make the tasks, a hundred at a time."""
    made: list[int] = []
    for first in range(0, len(prepared), _CREATED_AT_ONCE):
        if progress is not None:
            progress(f"making tasks: {first} of {len(prepared)}", first / len(prepared))
        chunk = prepared[first : first + _CREATED_AT_ONCE]
        try:
            made += client.tasks.create(project, [{"data": task.data} for task in chunk])
        except LabelStudioError as error:
            if not made:
                raise
            raise LabelStudioError(
                f"{len(made)} of {len(prepared)} tasks were made (the last is task {made[-1]}, of "
                f"{prepared[len(made) - 1].source.name}), then: {error}",
                error.status,
            ) from error
    if progress is not None:
        progress("", 1.0)
    return tuple(made)


def _unserved(
    client: LabelStudioClient, project: int, media_dir: Path, document_root: Path
) -> tuple[str, ...]:
    """A warning where no storage of the project serves the media; Label Studio may see them under another root."""
    within = media_dir.resolve().relative_to(document_root.resolve())
    served = [PurePosixPath(str(storage["path"])) for storage in client.storages.of_project(project)]
    for folder in (within, *list(within.parents)[:-1]):
        if any(path.parts[-len(folder.parts) :] == folder.parts for path in served):
            return ()
    return (
        f"project {project} has no local storage for {media_dir}, without which Label Studio shows no frames; add it "
        f"with `steerseg-backend connect --project {project} --storage-path FOLDER`, that folder as Label Studio "
        "sees it",
    )


def prepare_tasks(
    controls: Controls,
    sources: Sequence[str | Path] = (),
    *,
    media_dir: Path,
    document_root: Path,
    expression: str | None = None,
    csv_file: Path | None = None,
    kind: TaskKind = "auto",
    cut: Cut = DEFAULT_CUT,
    fps: float | None = None,
    expression_key: str = "expression",
    limits: VideoLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> PreparedTasks:
    """Write the media and build the tasks, without importing them; see :func:`import_videos`."""
    frames_side, video_side = _chosen_sides(controls, kind)
    media = MediaFolder(media_dir.resolve(), document_root.resolve())
    if csv_file is None:
        found = sources_with_expression(sources, expression)
    else:
        found = sources_of_table(csv_file, sources, expression)
    problems = list(found.problems)
    tasks: list[PreparedTask] = []
    with contextlib.closing(IsolatedDecoder(limits, lasting=True)) as decoder:
        for index, source in enumerate(found.videos):
            if progress is not None:
                progress(
                    f"{source.path.name} ({index + 1} of {len(found.videos)})", index / len(found.videos)
                )
            options = PageOptions(cut.with_stride(source.stride), fps, decoder)
            try:
                prepared = _prepare_video(source.path, frames_side, video_side, media, options)
            except VideoError as error:
                problems.append(str(error))
                continue
            tasks += [
                part if text is None else replace(part, data={expression_key: text, **part.data})
                for text in source.expressions
                for part in prepared
            ]
    if not tasks:
        raise VideoError(list_problems("no task was imported, since no video can be used:", problems))
    return PreparedTasks(tuple(tasks), tuple(problems), found.passed_over)


def _chosen_sides(controls: Controls, kind: TaskKind) -> tuple[FramesSide | None, VideoSide | None]:
    """Which sides of the configuration the tasks fill.

    Raises:
        ConfigError: The configuration lacks a side that is asked for.
    """
    if kind in ("frames", "both") and controls.frames is None:
        raise ConfigError(
            'the project\'s labelling configuration shows no frames; it needs <Image valueList="$frames"> '
            "and a mask control such as <BrushLabels>. Use label_config/frames.xml, or import with "
            "--kind video"
        )
    if kind in ("video", "both") and controls.video is None:
        raise ConfigError(
            'the project\'s labelling configuration shows no video; it needs <Video value="$video"> and '
            "<VideoRectangle>. Use label_config/video.xml, or import with --kind frames"
        )
    return (
        None if kind == "video" else controls.frames,
        None if kind == "frames" else controls.video,
    )


def _prepare_video(
    source: Path,
    frames_side: FramesSide | None,
    video_side: VideoSide | None,
    media: MediaFolder,
    options: PageOptions,
) -> list[PreparedTask]:
    """Write a video's media and build its tasks, one for each part, without an expression.

    Raises:
        VideoError: The video cannot be used.
    """
    name, size = media_name(source), options.cut.split_pages
    parts: list[dict[str, Any]] = []
    pages: list[int] = []
    note = ""
    if frames_side is not None:
        folder, manifest = write_pages(source, name, media, options)
        urls = [media.url(folder / page) for page in manifest.frames]
        for part in split(len(urls), size):
            chosen = slice(part.first, part.first + part.count)
            rates = {"fps": manifest.fps, "stride": manifest.stride, "pts": manifest.pts[chosen]}
            begins = {FIRST_FRAME_KEY: manifest.frame_indices[part.first]} if part.count < len(urls) else {}
            parts.append({frames_side.data_key: urls[chosen], **rates, **begins})
            pages.append(part.count)
    if video_side is not None:
        # Beside pages, the video has the frames between them too.
        stride = 1 if frames_side is not None else video_stride(source, options)
        length = None if size is None else size * (manifest.stride if frames_side is not None else 1)
        video = write_playable(source, name, media, options, stride=stride, part=length)
        note, parts = video.note, parts or [{} for _ in video.paths]
        for data, path in zip(parts, video.paths, strict=True):
            data[video_side.data_key] = media.url(path)
            data |= _rates(video_side, video.fps)
            if stride > 1:
                data[VIDEO_STRIDE_KEY] = stride
    tasks = []
    for number, data in enumerate(parts):
        part_note = f"part {number + 1} of {len(parts)}" if len(parts) > 1 else ""
        data |= {"source": source.name, **({"part": part_note} if part_note else {})}
        tasks.append(PreparedTask(source, data, pages[number] if pages else 0, note, part_note))
    return tasks


def _rates(side: VideoSide, fps: float) -> dict[str, float]:
    if side.frame_rate_key is not None:
        return {"fps": fps, side.frame_rate_key: fps}
    if not math.isclose(side.fps({}), fps, rel_tol=1e-3):
        # A wrong rate moves every box off its object, more with every second.
        raise VideoError(
            f"the video has {fps:g} frames a second, but the labelling configuration counts "
            f'{side.fps({}):g}; write frameRate="$fps" into <Video name="{side.name}">'
        )
    return {"fps": fps}
