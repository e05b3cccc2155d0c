"""A project's corrections for people (``steerseg-backend corrections``) and for other programs (``--export``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_backend.corrections.records import Correction, CorrectionCounts, SetAsideCorrection
from steerseg.runtime.artefacts import write_json


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
        path = (
            folder / f"task-{correction.task_id}-annotation-{correction.annotation_id}-{correction.id}.json"
        )
        write_json(path, _exported(correction, confidence))
        files.append(path)
    return files


def _exported(correction: Correction, confidence: float) -> dict[str, Any]:
    frames: dict[str, Any] = {}
    for index, rle in correction.filled(confidence).items():
        decided = correction.frames.get(index)
        frames[str(index)] = {
            "mask": rle,
            "from": "propagated" if decided is None else str(decided.kind),
            "confidence": 1.0 if decided is not None else correction.propagated[index].confidence,
            "changed": decided is not None and decided.touched,
            "iou_with_proposal": None if decided is None else decided.iou,
        }
    return {
        "project": correction.project_id,
        "task": correction.task_id,
        "annotation": correction.annotation_id,
        "object": correction.object,
        "expression": correction.expression,
        "verdict": None if correction.verdict is None else str(correction.verdict),
        "media": correction.media_digest,
        "frames_are": "pages" if correction.side == "frames" else "frames of the video",
        "num_frames": correction.num_frames,
        "height": correction.height,
        "width": correction.width,
        "proposed_by": None if correction.proposed is None else correction.proposed.version,
        "lead_time": correction.lead_time,
        "frames": frames,
    }


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
