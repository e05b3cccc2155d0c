"""``steerseg-backend export``: a project's accepted annotations as a dataset in a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.corrections.records import Correction
from ml_backend.corrections.selection import choose_annotations
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.exporting.coco import write_coco
from ml_backend.exporting.dense import densify
from ml_backend.exporting.formats import Export, Writer
from ml_backend.exporting.labelled import Categories, LabelledSequence, sequences
from ml_backend.exporting.mots import write_mots
from ml_backend.exporting.pictures import Pictures, pictures_at
from ml_backend.exporting.vos import write_davis, write_youtube_vos
from ml_backend.exporting.yolo import write_yolo_seg
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import Loader, Media
from ml_backend.settings import Settings
from steerseg.errors import ConfigError, SteerSegError, VideoError
from steerseg.runtime.artefacts import building_folder, explained, write_json

if TYPE_CHECKING:  # it comes with torch
    from steerseg.tracking import Tracker

FORMATS: dict[str, Writer] = {
    "coco": write_coco,
    "youtube-vos": write_youtube_vos,
    "davis": write_davis,
    "mots": write_mots,
    "yolo-seg": write_yolo_seg,
}

PROVENANCE_FILE = "provenance.json"

ReportLine = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What is wanted.

    Attributes:
        format: A name of :data:`FORMATS`.
        output: The folder; must not exist, or be empty.
        categories: What classes are.
        images: Whether the pictures are written too.
        videos: Folder of the original videos of strided tasks.
    """

    format: str
    output: Path
    categories: Categories = "label"
    images: bool = True
    videos: Path | None = None


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        sequences: What the dataset holds.
        warnings: What is not as one might expect, task by task.
        left_out: How many tasks are missing.
    """

    sequences: tuple[LabelledSequence, ...]
    warnings: tuple[str, ...]
    left_out: int

    def __str__(self) -> str:
        masks = Counter(
            str(mask.provenance)
            for sequence in self.sequences
            for object_ in sequence.objects
            for mask in object_.masks.values()
            if mask.visible
        )
        objects = sum(len(sequence.objects) for sequence in self.sequences)
        counted = ", ".join(f"{number} {name}" for name, number in sorted(masks.items())) or "none"
        return f"{len(self.sequences)} tasks, {objects} objects, {masks.total()} masks ({counted})"


class Exporter:
    """Writes the accepted annotations of a project as a dataset.

    Args:
        settings: Least confidence of masks, preset and device.
        store: The database.
        media: What fetches media.
        tracker: Loads SAM 2; called at most once, and only where frames between pages are to be filled.
    """

    def __init__(
        self, settings: Settings, database: Database, media: Loader, tracker: Callable[[], Tracker]
    ) -> None:
        self._settings = settings
        self._database = database
        self._project_store = ProjectStore(database)
        self._media = media
        self._load_tracker = tracker
        self._tracker: Tracker | None = None

    def export(
        self, project_id: int, options: ExportOptions, report_line: ReportLine = lambda line: None
    ) -> ExportReport:
        """Write the dataset; it is in the folder as a whole or not at all.

        Args:
            project_id: The project.
            options: What is wanted.
            report_line: Called with a line for a person now and then.

        Raises:
            ConfigError: There is nothing to export, or the folder is not empty.
            VideoError: Pictures cannot be read.
            ArtefactError: The folder cannot be written.
        """
        if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
            raise ConfigError(f"{options.output} is there already; name a new folder with --output")
        store = CorrectionStore(self._database)
        confidence = self._settings.propagation_confidence
        chosen = choose_annotations(store.annotations(project_id))
        wanted = sequences(store.corrections(project_id), confidence, options.categories, chosen)
        if not wanted:
            raise ConfigError(
                f"project {project_id} has no accepted annotation to export; `steerseg-backend corrections "
                f"{project_id}` lists what there is, and what cannot be used for which reason"
            )
        connections = Connections(self._settings)
        try:
            found, pictures, warnings = self._gather(wanted, options, connections, report_line)
        finally:
            connections.close()
        passed_over = [f"task {one.task_id}: {note}" for one in chosen.values() for note in one.notes]
        warnings = passed_over + warnings
        if not found:
            raise ConfigError(f"no task of project {project_id} could be exported: {'; '.join(warnings)}")
        # An object that is visible nowhere has no label either.
        seen = (object_ for sequence in found for object_ in sequence.objects if object_.ever_visible)
        classes = sorted({object_.category for object_ in seen})
        export = Export(project_id, tuple(found), pictures if options.images else {}, tuple(classes))
        report_line(f"writing {options.output}")
        with explained(options.output), building_folder(options.output) as building:
            FORMATS[options.format](export, building)
            write_json(building / PROVENANCE_FILE, provenance(export, options.format))
        return ExportReport(tuple(found), tuple(warnings), len(wanted) - len(found))

    def _gather(
        self,
        wanted: Iterable[LabelledSequence],
        options: ExportOptions,
        connections: Connections,
        report_line: ReportLine,
    ) -> tuple[list[LabelledSequence], dict[str, Pictures], list[str]]:
        """The sequences with their pictures, filled where they have strides; and what to warn of."""
        found: list[LabelledSequence] = []
        pictures: dict[str, Pictures] = {}
        warnings: list[str] = []
        for sequence in wanted:
            task = f"task {sequence.task_id}"
            if not options.images and sequence.stride == 1:
                found.append(sequence)
                continue
            try:
                media = self._load(sequence.correction, connections)
                if media.digest != sequence.correction.media_digest:
                    raise VideoError("its media were replaced since it was annotated")
            except SteerSegError as error:
                if options.images:
                    warnings.append(f"{task} is left out: {error} (--no-images exports masks alone)")
                    continue
                warnings.append(f"{task}: only every {sequence.stride}. frame has masks: {error}")
                found.append(sequence)
                continue
            shown = pictures_at(media.path)
            if sequence.stride > 1:
                try:
                    original = self._original(sequence, options, connections)
                    report_line(f"{task}: filling the frames between its pages")
                    sequence = densify(
                        sequence, shown, original, self._sam2(), self._settings.propagation_confidence
                    )
                    shown = original
                except VideoError as error:
                    warnings.append(f"{task}: only every {sequence.stride}. frame has masks: {error}")
            found.append(sequence)
            pictures[sequence.name] = shown
        for sequence in found:
            undecided = len(sequence.undecided())
            if undecided:
                warnings.append(
                    f"task {sequence.task_id}: {undecided} of {sequence.num_frames} frames are undecided: nobody "
                    "annotated them, and nothing was propagated there with enough confidence"
                )
        return found, pictures, warnings

    def _load(self, correction: Correction, connections: Connections, *, video: bool = False) -> Media:
        """A correction's media, or the video beside its pages."""
        project = self._project_store.find(correction.project_id)
        controls = parse_controls(correction.label_config)
        if video:
            controls = replace(controls, frames=None)
        return self._media.load(
            Task(correction.task_id, correction.task_data),
            controls,
            self._settings.label_studio_url if project is None else connections.url(project),
            None if project is None else connections.client(project),
        )

    def _original(
        self, sequence: LabelledSequence, options: ExportOptions, connections: Connections
    ) -> Pictures:
        """The video that a task's pages come from.

        Raises:
            VideoError: It is not known or not there.
        """
        source = sequence.correction.task_data.get("source")
        if options.videos is not None and isinstance(source, str):
            path = options.videos / Path(source).name  # the task's data may name any path
            if path.exists():
                return pictures_at(path)
        if parse_controls(sequence.correction.label_config).video is not None:
            return pictures_at(self._load(sequence.correction, connections, video=True).path)
        name = f"{source!r} " if isinstance(source, str) else ""
        where = "here; name its folder with --videos" if options.videos is None else f"in {options.videos}"
        raise VideoError(f"the original video {name}is not known {where}")

    def _sam2(self) -> Tracker:
        if self._tracker is None:
            self._tracker = self._load_tracker()
        return self._tracker


def load_tracker(settings: Settings) -> Tracker:
    """SAM 2 of the preset in force.

    Raises:
        ConfigError: The preset cannot be used.
        ModelError: The weights cannot be loaded.
    """
    from steerseg.presets import open_preset
    from steerseg.runtime.devices import resolve_device
    from steerseg.tracking import Tracker

    device, dtype = resolve_device(settings.device)
    return Tracker.from_pretrained(open_preset(settings.preset).sam2, device=device, dtype=dtype)


def provenance(export: Export, format_: str) -> dict[str, Any]:
    """The content of ``provenance.json``: for every object and frame, who made the mask and how sure it is."""
    return {
        "project": export.project_id,
        "format": format_,
        "classes": list(export.classes),
        "sequences": {sequence.name: _described(sequence) for sequence in export.sequences},
    }


def _described(sequence: LabelledSequence) -> dict[str, Any]:
    return {
        "task": sequence.task_id,
        "frames": sequence.num_frames,
        "stride": sequence.stride,
        "fps": sequence.fps,
        "undecided": sequence.undecided(),
        "objects": {
            str(number): {
                "annotation": object_.annotation_id,
                "correction": object_.correction_id,
                "category": object_.category,
                "expression": object_.expression,
                "proposed_by": object_.version,
                "masks": {
                    str(index): {
                        "from": str(mask.provenance),
                        "visible": mask.visible,
                        "confidence": round(mask.confidence, 4),
                        "drawn_as_box": mask.from_box,
                        "iou_with_proposal": mask.iou,
                    }
                    for index, mask in object_.masks.items()
                },
            }
            for number, object_ in enumerate(sequence.objects, start=1)
        },
    }
