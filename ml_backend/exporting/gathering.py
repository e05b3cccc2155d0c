"""The media of what is exported: pictures, and the frames between the pages of tasks with a stride."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.corrections.records import Correction
from ml_backend.database.projects import ProjectStore
from ml_backend.exporting.dense import densify
from ml_backend.exporting.labelled import LabelledSequence
from ml_backend.exporting.omissions import Omission
from ml_backend.exporting.pictures import Excerpt, Pictures, pictures_at
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import FIRST_FRAME_KEY, Loader, Media, positive_number
from ml_backend.settings import Settings
from steerseg.errors import SteerSegError, VideoError
from steerseg.video.isolation import IsolatedDecoder

if TYPE_CHECKING:  # it comes with torch
    from steerseg.tracking import Tracker

ReportLine = Callable[[str], None]


@dataclass
class Gathered:
    """What was gathered.

    Attributes:
        sequences: Those that can be exported, filled where they have strides.
        pictures: By name of the sequence, its pictures.
        omissions: Tasks without media, and tasks whose frames between the pages are missing.
    """

    sequences: list[LabelledSequence] = field(default_factory=list)
    pictures: dict[str, Pictures] = field(default_factory=dict)
    omissions: list[Omission] = field(default_factory=list)


class Gatherer:
    """Fetches the media of sequences.

    Args:
        settings: Least confidence of masks, address of Label Studio.
        projects: The projects.
        media: What fetches media.
        connections: Connections to Label Studio.
        tracker: Loads SAM 2; called at most once, and only where frames between pages are to be filled.
        decoder: Decodes the media.
    """

    def __init__(
        self,
        settings: Settings,
        projects: ProjectStore,
        media: Loader,
        connections: Connections,
        tracker: Callable[[], Tracker],
        decoder: IsolatedDecoder,
    ) -> None:
        self._settings = settings
        self._projects = projects
        self._media = media
        self._connections = connections
        self._load_tracker = tracker
        self._decoder = decoder
        self._tracker: Tracker | None = None

    def gather(
        self,
        wanted: Iterable[LabelledSequence],
        *,
        images: bool,
        pages: bool,
        videos: Path | None,
        report_line: ReportLine,
    ) -> Gathered:
        """Fetch the media of what is exported.

        Args:
            wanted: What is exported.
            images: Whether the pictures are wanted.
            pages: Whether the pages alone are wanted of tasks with a stride.
            videos: Folder of the original videos of such tasks.
            report_line: Called with a line for a person now and then.
        """
        gathered = Gathered()
        for sequence in wanted:
            fill = sequence.stride > 1 and not pages
            if not images and not fill:
                gathered.sequences.append(sequence)
                continue
            try:
                media = self._load(sequence.correction)
                if media.digest != sequence.correction.media_digest:
                    raise VideoError("its media were replaced since it was annotated")
                shown = pictures_at(media.path, self._decoder, (sequence.height, sequence.width))
            except SteerSegError as error:
                if images:
                    reason = f"{error} (--no-images exports masks alone)"
                    gathered.omissions.append(Omission(sequence.task_id, None, "", reason))
                else:
                    gathered.omissions.append(_sparse(sequence, error))
                    gathered.sequences.append(sequence)
                continue
            if media.timeline is not None and len(media.timeline.times) > 1:
                sequence = replace(sequence, fps=round(media.timeline.fps, 6), knows_fps=True)
            if fill:
                report_line(f"task {sequence.task_id}: filling the frames between its pages")
                try:
                    sequence, shown = self._filled(sequence, shown, videos)
                except VideoError as error:
                    gathered.omissions.append(_sparse(sequence, error))
            gathered.sequences.append(sequence)
            gathered.pictures[sequence.name] = shown
        return gathered

    def _filled(
        self, sequence: LabelledSequence, shown: Pictures, videos: Path | None
    ) -> tuple[LabelledSequence, Pictures]:
        """The sequence with all frames of its video, and their pictures.

        Raises:
            VideoError: The video is not there, or another one.
        """
        original = self._original(sequence, videos)
        confidence = self._settings.propagation_confidence
        return densify(sequence, shown, original, self._sam2(), confidence), original

    def _load(self, correction: Correction, *, video: bool = False) -> Media:
        """A correction's media, or the video beside its pages."""
        project = self._projects.find(correction.project_id)
        controls = parse_controls(correction.label_config)
        if video:
            controls = replace(controls, frames=None)
        return self._media.load(
            Task(correction.task_id, correction.task_data),
            controls,
            self._connections.host(project),
        )

    def _original(self, sequence: LabelledSequence, videos: Path | None) -> Pictures:
        """The video that a task's pages come from.

        Raises:
            VideoError: It is not known or not there.
        """
        size = sequence.height, sequence.width
        source = sequence.correction.task_data.get("source")
        if videos is not None and isinstance(source, str):
            path = videos / Path(source).name  # the task's data may name any path
            if path.exists():
                return _part_of(pictures_at(path, self._decoder, size), sequence)
        if parse_controls(sequence.correction.label_config).video is not None:
            return pictures_at(self._load(sequence.correction, video=True).path, self._decoder, size)
        name = f"{source!r} " if isinstance(source, str) else ""
        where = "here; name its folder with --videos" if videos is None else f"in {videos}"
        raise VideoError(f"the original video {name}is not known {where}")

    def _sam2(self) -> Tracker:
        if self._tracker is None:
            self._tracker = self._load_tracker()
        return self._tracker


def _part_of(original: Pictures, sequence: LabelledSequence) -> Pictures:
    """The frames of a task in its original video, which may have been split into several tasks."""
    data = sequence.correction.task_data
    if FIRST_FRAME_KEY not in data:
        return original
    first = round(positive_number(data[FIRST_FRAME_KEY]) or 0)
    return Excerpt(original, first, sequence.num_frames * sequence.stride)


def _sparse(sequence: LabelledSequence, error: SteerSegError) -> Omission:
    reason = f"only every {sequence.stride}. frame has masks: {error} (--pages exports the pages alone)"
    return Omission(sequence.task_id, None, "", reason)
