"""``steerseg-backend export``: a project's accepted annotations as a dataset in a folder."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.corrections.records import Correction
from ml_backend.corrections.refresh import CorrectionRefresher
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.exporting.card import CARD_FILE, dataset_card
from ml_backend.exporting.classes import ClassTable, configured_classes, expression_classes
from ml_backend.exporting.coco import coco_numbers, write_coco
from ml_backend.exporting.formats import Export, Format
from ml_backend.exporting.gathering import Gathered, Gatherer, ReportLine
from ml_backend.exporting.labelled import DEFAULT_FPS, Categories, LabelledSequence, sequences
from ml_backend.exporting.mots import mots_numbers, write_mots
from ml_backend.exporting.omissions import Omission, is_complete
from ml_backend.exporting.provenance import PROVENANCE_FILE, provenance
from ml_backend.exporting.reading import read_project
from ml_backend.exporting.selection import select
from ml_backend.exporting.splits import TRAIN, Split
from ml_backend.exporting.vos import write_davis, write_youtube_vos
from ml_backend.exporting.yolo import write_yolo_seg, yolo_numbers
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import Loader, media_limits
from ml_backend.settings import Settings
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import building_folder, explained, write_bytes, write_json
from steerseg.video.isolation import IsolatedDecoder

if TYPE_CHECKING:  # it comes with torch
    from steerseg.tracking import Tracker

FORMATS: dict[str, Format] = {
    "coco": Format(write_coco, coco_numbers),
    "youtube-vos": Format(write_youtube_vos),
    "davis": Format(write_davis),
    "mots": Format(write_mots, mots_numbers),
    "yolo-seg": Format(write_yolo_seg, yolo_numbers),
}

_MOST_REASONS = 10  # in the message of an export that holds nothing


@dataclass(frozen=True)
class ExportOptions:
    """What is wanted.

    Attributes:
        format: A name of :data:`FORMATS`.
        output: The folder; must not exist, or be empty.
        categories: What classes are.
        images: Whether the pictures are written too.
        videos: Folder of the original videos of strided tasks.
        pages: Whether strided tasks are exported with their pages alone.
        split: How the videos are divided; ``None`` holds nothing out.
    """

    format: str
    output: Path
    categories: Categories = "label"
    images: bool = True
    videos: Path | None = None
    pages: bool = False
    split: Split | None = None


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        sequences: What the dataset holds.
        warnings: What is not as one might expect, though nothing is missing.
        omissions: What is left out, and why.
    """

    sequences: tuple[LabelledSequence, ...]
    warnings: tuple[str, ...]
    omissions: tuple[Omission, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing but what documented rules leave out."""
        return is_complete(self.omissions)

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
        database: The database.
        media: What fetches media.
        refresher: Reads the project's annotations first.
        tracker: Loads SAM 2; called at most once, and only where frames between pages are to be filled.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        media: Loader,
        refresher: CorrectionRefresher,
        tracker: Callable[[], Tracker],
    ) -> None:
        self._settings = settings
        self._database = database
        self._project_store = ProjectStore(database)
        self._media = media
        self._refresher = refresher
        self._tracker = tracker

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
        with contextlib.closing(IsolatedDecoder(media_limits(self._settings), lasting=True)) as decoder:
            return self._export(project_id, options, report_line, decoder)

    def _export(
        self, project_id: int, options: ExportOptions, report_line: ReportLine, decoder: IsolatedDecoder
    ) -> ExportReport:
        if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
            raise ConfigError(f"{options.output} is there already; name a new folder with --output")
        report_line(f"reading project {project_id}")
        project = read_project(self._database, self._refresher, project_id)
        selection = select(project.annotations)
        wanted = sequences(selection.corrections, self._settings.propagation_confidence, options.categories)
        if not wanted:
            raise ConfigError(
                f"project {project_id} has no accepted annotation to export{_reasons(selection.omissions)}; "
                f"`steerseg-backend corrections {project_id}` lists what there is, and what cannot be used for "
                "which reason"
            )
        gathered = self._gather(wanted, options, report_line, decoder)
        omissions = [*selection.omissions, *gathered.omissions]
        if not gathered.sequences:
            raise ConfigError(f"no task of project {project_id} could be exported{_reasons(omissions)}")
        classes = self._classes(project_id, gathered.sequences, options.categories, project.label_config)
        export = Export(
            project_id=project_id,
            sequences=tuple(gathered.sequences),
            pictures=gathered.pictures if options.images else {},
            classes=classes,
            parts=_parts(gathered.sequences, options.split),
            is_split=options.split is not None,
        )
        report_line(f"writing {options.output}")
        warnings = [*_notes(selection.corrections, export), *_warnings(export)]
        with explained(options.output), building_folder(options.output) as building:
            omissions += FORMATS[options.format].write(export, building)
            _describe(export, options.format, omissions, warnings, building)
        return ExportReport(export.sequences, tuple(warnings), tuple(omissions))

    def _gather(
        self,
        wanted: Sequence[LabelledSequence],
        options: ExportOptions,
        report_line: ReportLine,
        decoder: IsolatedDecoder,
    ) -> Gathered:
        connections = Connections(self._settings)
        projects = self._project_store
        try:
            gatherer = Gatherer(self._settings, projects, self._media, connections, self._tracker, decoder)
            return gatherer.gather(
                wanted,
                images=options.images,
                pages=options.pages,
                videos=options.videos,
                report_line=report_line,
            )
        finally:
            connections.close()

    def _classes(
        self,
        project_id: int,
        found: Sequence[LabelledSequence],
        categories: Categories,
        label_config: str,
    ) -> ClassTable:
        """The classes of the dataset; see :mod:`ml_backend.exporting.classes`."""
        # An object that is visible nowhere has no label either.
        seen = [object_ for sequence in found for object_ in sequence.objects if object_.ever_visible]
        used = [object_.category for object_ in sorted(seen, key=lambda object_: object_.correction_id)]
        if categories == "expression":
            return expression_classes(self._settings.data_dir, project_id, used)
        return configured_classes(label_config, used)


def load_tracker(settings: Settings) -> Tracker:
    """SAM 2 of the preset in force.

    Raises:
        ConfigError: The preset cannot be used.
        ModelError: The weights cannot be loaded.
    """
    from steerseg.presets import open_preset
    from steerseg.runtime.devices import resolve_device
    from steerseg.tracking import Tracker

    device, dtype = resolve_device(settings.devices[0])
    preset = open_preset(settings.preset)
    return Tracker.from_pretrained(
        preset.segmenter_source, device=device, dtype=dtype, config=preset.segmenter_config
    )


def _parts(found: Sequence[LabelledSequence], split: Split | None) -> dict[str, frozenset[str]]:
    """The names of the sequences in each part."""
    if split is None:
        return {TRAIN: frozenset(sequence.name for sequence in found)}
    chosen = {sequence.name: split.part_of(sequence.correction.group) for sequence in found}
    return {part: frozenset(name for name, own in chosen.items() if own == part) for part in split.parts}


def _describe(
    export: Export, format_: str, omissions: Sequence[Omission], warnings: Sequence[str], folder: Path
) -> None:
    """Write what stands beside every format."""
    numbers = FORMATS[format_].numbers(export.classes) or dict.fromkeys(export.classes.names)
    write_json(folder / PROVENANCE_FILE, provenance(export, format_, omissions, warnings))
    write_bytes(folder / CARD_FILE, dataset_card(export, format_, numbers, omissions).encode())


def _notes(corrections: Sequence[Correction], export: Export) -> list[str]:
    """What a person should know of the corrections that are exported."""
    exported = {object_.correction_id for sequence in export.sequences for object_ in sequence.objects}
    # A note about a whole annotation stands at each of its instances.
    return list(
        dict.fromkeys(
            f"task {one.task_id}, annotation {one.annotation_id}: {note}"
            for one in corrections
            if one.id in exported
            for note in one.notes
        )
    )


def _warnings(export: Export) -> list[str]:
    """What is not as one might expect, though nothing is missing."""
    warnings = [
        f"task {sequence.task_id}: at least one object is undecided on {undecided} of {sequence.num_frames} frames: "
        "nobody annotated it there, and nothing was propagated with enough confidence"
        for sequence in export.sequences
        if (undecided := len(sequence.undecided()))
    ]
    warnings += [
        f"task {sequence.task_id}: nothing says how many frames a second its video has, and {DEFAULT_FPS:g} stand for "
        "them: name them in the task's data as `fps`"
        for sequence in export.sequences
        if not sequence.knows_fps
    ]
    warnings += [
        f"task {sequence.task_id}: its video was thinned when it was imported, to one frame in "
        f"{sequence.video_stride}: the dataset holds those frames alone"
        for sequence in export.sequences
        if sequence.video_stride > 1
    ]
    warnings += [
        f"the class {name!r} is not in the labelling configuration; its number comes behind all others, and may be "
        "another in the next export: add the label, or correct the annotations"
        for name in export.classes.strangers
    ]
    warnings += [
        f"no video falls into {part}: a hash of each video decides, and there are few"
        for part, names in export.parts.items()
        if not names
    ]
    return warnings


def _reasons(omissions: Sequence[Omission]) -> str:
    """What was left out, for a message."""
    listed = [str(omission) for omission in omissions[:_MOST_REASONS]]
    if len(omissions) > _MOST_REASONS:
        listed.append(f"and {len(omissions) - _MOST_REASONS} more")
    return f": {'; '.join(listed)}" if listed else ""
