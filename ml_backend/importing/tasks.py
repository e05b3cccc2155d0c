"""Videos -> tasks of a Label Studio project: pages as JPEG frames, videos that a browser plays.

Frames are numbered in decode order, page 0 first; every frame is taken, or one in ``stride``. Nothing is
dropped silently: a video with more pages than a task can show is an error that says which stride fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ml_backend.importing.media import MediaFolder, media_name
from ml_backend.importing.pages import PageOptions, write_pages
from ml_backend.importing.playable import write_playable
from ml_backend.importing.sources import expressions_of_sources, expressions_of_table
from ml_backend.importing.text_files import list_problems
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import Controls, FramesSide, VideoSide
from steerseg.errors import ConfigError, VideoError
from steerseg.video import DEFAULT_LIMITS, VideoLimits

TaskKind = Literal["auto", "frames", "video", "both"]


Progress = Callable[[str, float], None]
"""Called with the name of a video and the fraction in [0, 1] of the whole import that is done."""

MAX_PAGES = 100
"""Pages a task: with more, Label Studio's editor freezes for seconds at every submit."""


@dataclass(frozen=True)
class PreparedTask:
    """One task before it is imported.

    Attributes:
        source: The video that it was made from.
        data: The task's data.
        pages: Frames written, or 0 for a task without pages.
        note: What was done to the video, if anything ("re-encoded: ...").
    """

    source: Path
    data: dict[str, Any] = field(repr=False)
    pages: int
    note: str = ""


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        tasks: Ids of the new tasks, in order.
        prepared: What each task consists of.
        warnings: What may keep annotators from seeing them.
    """

    tasks: tuple[int, ...]
    prepared: tuple[PreparedTask, ...]
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line a task, for people."""
        lines = []
        for task, item in zip(self.tasks, self.prepared, strict=True):
            what = f"{item.pages} pages" if item.pages else "video"
            expression = item.data.get("expression", "")
            lines.append(
                f"task {task}: {item.source.name} ({what})"
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
    stride: int = 1,
    max_pages: int = MAX_PAGES,
    fps: float | None = None,
    expression_key: str = "expression",
    limits: VideoLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> ImportReport:
    """Import videos as tasks. No task is made before every video is prepared.

    Args:
        client: Connection to Label Studio.
        project: The project's id; its labelling configuration says what its tasks consist of.
        sources: Video files, folders (of videos or of frames) and glob patterns; empty with ``csv_file``.
        media_dir: Where frames and videos are written; a Local Files storage must cover it (see ``connect``).
        document_root: Label Studio's ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``, which ``media_dir`` lies below.
        expression: What to track in all of them; ``None`` leaves it to the project's default.
        csv_file: Table with columns ``video`` and ``expression``; several rows with one video are several
            tasks. Paths are relative to the table.
        kind: Pages, videos or both; ``auto`` is what the project can show.
        stride: Take one frame in ``stride`` as a page.
        max_pages: Most pages of a task.
        fps: Frame rate of folders of frames (25 if not given); files have their own.
        expression_key: Key of the task's data that holds the expression.
        limits: What a video may cost.
        progress: Called now and then; may raise to stop.

    Raises:
        ConfigError: The project cannot show such tasks, or the folders do not fit each other.
        VideoError: Videos are missing, unreadable or too long; the message lists all of them.
        ExpressionError: An expression is empty, or the table lacks one.
        LabelStudioError: Label Studio refuses.
    """
    controls = parse_controls(str(client.projects.get(project)["label_config"]))
    prepared = prepare_tasks(
        controls,
        sources,
        media_dir=media_dir,
        document_root=document_root,
        expression=expression,
        csv_file=csv_file,
        kind=kind,
        stride=stride,
        max_pages=max_pages,
        fps=fps,
        expression_key=expression_key,
        limits=limits,
        progress=progress,
    )
    tasks = client.tasks.create(project, [{"data": task.data} for task in prepared])
    return ImportReport(tuple(tasks), tuple(prepared), _unserved(client, project, media_dir, document_root))


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
    stride: int = 1,
    max_pages: int = MAX_PAGES,
    fps: float | None = None,
    expression_key: str = "expression",
    limits: VideoLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> list[PreparedTask]:
    """Write the media and build the tasks, without importing them; see :func:`import_videos`."""
    if stride < 1:
        raise ConfigError(f"stride is {stride}; expected 1 (every frame) or more")
    if max_pages < 1:
        raise ConfigError(f"the number of pages a task is {max_pages}; expected 1 or more")
    frames_side, video_side = _chosen_sides(controls, kind)
    media = MediaFolder(media_dir.resolve(), document_root.resolve())
    options = PageOptions(stride, max_pages, fps, limits)
    if csv_file is None:
        expressions = expressions_of_sources(sources, expression)
    else:
        expressions = expressions_of_table(csv_file, sources, expression)
    problems: list[str] = []
    tasks: list[PreparedTask] = []
    for index, (source, texts) in enumerate(expressions.items()):
        if progress is not None:
            progress(source.name, index / len(expressions))
        try:
            prepared = _prepare_video(source, frames_side, video_side, media, options)
        except VideoError as error:
            problems.append(str(error))
            continue
        tasks += [
            prepared if text is None else replace(prepared, data={expression_key: text, **prepared.data})
            for text in texts
        ]
    if problems:
        raise VideoError(list_problems("no task was imported, since some videos cannot be used:", problems))
    if progress is not None:
        progress("", 1.0)
    return tasks


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
) -> PreparedTask:
    """Write a video's media and build its task, without an expression.

    Raises:
        VideoError: The video cannot be used.
    """
    data: dict[str, Any] = {}
    pages, note = 0, ""
    name = media_name(source)
    if frames_side is not None:
        folder, manifest = write_pages(source, name, media, options)
        pages = len(manifest.frames)
        data[frames_side.data_key] = [media.url(folder / page) for page in manifest.frames]
        data |= {"fps": manifest.fps, "stride": options.stride, "pts": manifest.pts}
    if video_side is not None:
        path, rate, note = write_playable(source, name, media, options.fps, options.limits)
        data[video_side.data_key] = media.url(path)
        data |= _rates(video_side, rate)
    return PreparedTask(source, {**data, "source": source.name}, pages, note)


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
