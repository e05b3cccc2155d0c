"""A project's corrections for people (``steerseg-backend corrections``) and for other programs (``--export``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_backend.corrections.records import Correction, CorrectionCounts, SetAsideCorrection
from ml_backend.corrections.serialization import MaskDocument, Time
from steerseg.runtime.artefacts import write_json


class _Answer(BaseModel):
    """JSON for other programs."""

    model_config = ConfigDict(frozen=True)


class ExportedFrame(_Answer):
    """One frame of an exported correction.

    Attributes:
        mask: COCO RLE; ``None`` where the object is not visible.
        source: ``mask``, ``box`` or ``empty`` as the annotator decided, or ``propagated``.
        confidence: Of a propagated mask in [0, 1]; 1 of a decided one.
        changed: Whether the annotator changed what was proposed.
        iou_with_proposal: In [0, 1]; ``None`` where nothing was proposed or decided.
    """

    mask: MaskDocument | None
    source: str = Field(serialization_alias="from")
    confidence: float
    changed: bool
    iou_with_proposal: float | None


class ExportedCorrection(_Answer):
    """One correction as a JSON file; see :class:`~ml_backend.corrections.records.Correction` for the fields."""

    project: int
    task: int
    annotation: int
    object: str
    expression: str
    verdict: str | None
    media: str
    frames_are: Literal["pages", "frames of the video"]
    num_frames: int
    height: int
    width: int
    proposed_by: str | None
    lead_time: float | None
    frames: dict[int, ExportedFrame]

    @classmethod
    def of(cls, correction: Correction, confidence: float) -> ExportedCorrection:
        """The file of a correction.

        Args:
            correction: The correction.
            confidence: Least confidence of a propagated mask.
        """
        frames = {}
        for index, rle in correction.filled(confidence).items():
            decided = correction.frames.get(index)
            frames[index] = ExportedFrame(
                mask=MaskDocument.of(rle),
                source="propagated" if decided is None else str(decided.kind),
                confidence=(correction.propagated[index] if decided is None else decided).confidence,
                changed=decided is not None and decided.touched,
                iou_with_proposal=None if decided is None else decided.iou,
            )
        return cls(
            project=correction.project_id,
            task=correction.task_id,
            annotation=correction.annotation_id,
            object=correction.object,
            expression=correction.expression,
            verdict=None if correction.verdict is None else str(correction.verdict),
            media=correction.media_digest,
            frames_are="pages" if correction.side == "frames" else "frames of the video",
            num_frames=correction.num_frames,
            height=correction.height,
            width=correction.width,
            proposed_by=None if correction.proposed is None else correction.proposed.version,
            lead_time=correction.lead_time,
            frames=frames,
        )


class ReportedProblem(_Answer):
    """Why one correction cannot be used."""

    task: int
    annotation: int
    object: str
    problem: str
    reason: str
    since: Time


class CorrectionsReport(_Answer):
    """How a project's corrections stand; see :class:`~ml_backend.corrections.records.CorrectionCounts`."""

    usable: int
    changed: int
    untouched: int
    rejected: int
    pending: int
    set_aside: int
    skipped: int
    unprocessed: int
    problems: tuple[ReportedProblem, ...]

    @classmethod
    def of(cls, counts: CorrectionCounts, aside: Iterable[SetAsideCorrection]) -> CorrectionsReport:
        """The report.

        Args:
            counts: How the corrections stand.
            aside: What cannot be used.
        """
        problems = tuple(
            ReportedProblem(
                task=one.task_id,
                annotation=one.annotation_id,
                object=one.object,
                problem=str(one.problem),
                reason=one.reason,
                since=one.since,
            )
            for one in aside
        )
        return cls(**asdict(counts), problems=problems)


def report(
    project_id: int,
    counts: CorrectionCounts,
    corrections: Sequence[Correction],
    aside: Sequence[SetAsideCorrection],
) -> list[str]:
    """How a project's corrections stand, in lines of text.

    Args:
        project_id: The project.
        counts: Their numbers.
        corrections: The usable ones.
        aside: What cannot be used.
    """
    lines = [f"project {project_id}: {counts}"]
    if corrections:
        lines += ["", *_table(corrections), "", *_by_version(corrections)]
    noted = [(one, note) for one in corrections for note in one.notes]
    if noted:
        lines += ["", "to know:"]
        lines += [f"  task {one.task_id}, annotation {one.annotation_id}: {note}" for one, note in noted]
    if aside:
        lines += ["", "set aside:"]
        lines += [f"  task {one.task_id}, annotation {one.annotation_id}: {one.reason}" for one in aside]
    return lines


def export(corrections: Iterable[Correction], folder: Path, confidence: float) -> list[Path]:
    """Write each correction as a JSON file: COCO RLE masks by frame, and where each comes from.

    Args:
        corrections: What to write; rejected ones have no masks and are left out.
        folder: Made if missing.
        confidence: Least confidence of a propagated mask.

    Returns:
        The files.

    Raises:
        ArtefactError: The disk is full or not writable.
    """
    files = []
    for correction in corrections:
        if correction.rejected:
            continue
        name = f"task-{correction.task_id}-annotation-{correction.annotation_id}-{correction.id}.json"
        path = folder / name
        write_json(path, ExportedCorrection.of(correction, confidence).model_dump(mode="json", by_alias=True))
        files.append(path)
    return files


def _table(corrections: Sequence[Correction]) -> Iterator[str]:
    yield f"{'task':>6} {'annotation':>10}  {'frames':>9}  {'IoU':>5}  {'time':>6}  {'':<10} expression"
    for correction in corrections:
        decided = f"{len(correction.frames)}/{correction.num_frames}"
        yield (
            f"{correction.task_id:>6} {correction.annotation_id:>10}  {decided:>9}  "
            f"{_number(correction.iou):>5}  {_minutes(correction.lead_time):>6}  {_standing(correction):<10} "
            f"{correction.expression}"
        )


def _standing(correction: Correction) -> str:
    if correction.rejected:
        return "rejected"
    return "corrected" if correction.touched else "accepted"


def _by_version(corrections: Sequence[Correction]) -> Iterator[str]:
    """What each version's proposals needed until they were right."""
    versions: dict[str, list[Correction]] = {}
    for correction in corrections:
        if correction.proposed is not None:
            versions.setdefault(correction.proposed.version, []).append(correction)
    for version, made in versions.items():
        accepted = sum(not one.touched and not one.rejected for one in made)
        overlaps = [one.iou for one in made if one.iou is not None]
        times = [one.lead_time for one in made if one.lead_time is not None]
        yield (
            f"{version}: {accepted} of {len(made)} proposals accepted as they were, mean IoU "
            f"{_number(_mean(overlaps))}, mean time {_minutes(_mean(times))}"
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _minutes(seconds: float | None) -> str:
    return "–" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
