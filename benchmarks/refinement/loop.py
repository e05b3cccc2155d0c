"""The loop that is measured: propose, accept or correct, refine, and see what is served then."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.refinement.annotator import Habits, work_on
from benchmarks.refinement.workplace import Tell, WorkError, Workplace, frames_side, wait_for
from ml_backend.refinement.versions import VERSION_FILE
from steerseg.evaluation import Sample
from steerseg.soft_prompts import SoftPrompts

_INGESTION_LIMIT = 1800.0  # seconds for corrections to be usable
_REFINEMENT_LIMIT = 4 * 3600.0
_SERVED_CHECKS = 1  # tasks by which the served version is compared with the exported one


@dataclass(frozen=True)
class Refined:
    """One run of the loop.

    Attributes:
        seed: Which tasks were corrected.
        tasks: How many.
        accepted: How many proposals were accepted as they were.
        proposal_iou: Mean IoU of the proposals, over tasks.
        pages: Pages that were painted or emptied.
        outcome: What the gate said: ``promoted``, ``kept back``, ``not enough data``.
        reason: Its reason in words and numbers.
        gate: What it measured: scheme, held-out and regression comparisons.
        seconds: From the beginning of the refinement to the gate's decision.
        version: Name of the version that was made; "" for none.
        digest: Of its soft prompts; "" for none.
        base_version: Version of the preset.
        machine: What computed.
    """

    seed: int
    tasks: int
    accepted: int
    proposal_iou: float
    pages: int
    outcome: str
    reason: str
    gate: dict[str, Any] = field(repr=False)
    seconds: float
    version: str
    digest: str
    base_version: str
    machine: str

    @property
    def promoted(self) -> bool:
        """Whether what was made is served."""
        return self.outcome == "promoted"

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


def run_loop(
    workplace: Workplace,
    seed: int,
    samples: Sequence[Sample],
    probes: Sequence[Sample],
    *,
    habits: Habits,
    prompts: Path,
    machine: str,
    tell: Tell,
) -> Refined:
    """Correct tasks, refine, and keep the version that came of it.

    Args:
        workplace: Where.
        seed: Of the tasks, for the record.
        samples: The tasks.
        probes: Further tasks; the first ones are predicted by the version that is served at the end.
        habits: How the annotator decides.
        prompts: Folder that takes the version, if one is made.
        machine: What computes, for the record.
        tell: Called with what happens.

    Raises:
        SteerSegError: Something of it cannot be done, a correction was set aside, or what is served is not what
            was exported.
    """
    project, tasks = workplace.begin(f"seed {seed}, {len(samples)} corrections", samples)
    tell(f"project {project}: {len(tasks)} tasks are predicted")
    workplace.propose(project)
    side = frames_side()
    works = []
    for task, sample in tasks.items():
        work = work_on(workplace.predictions(project, task), sample.expression, sample.masks(), side, habits)
        workplace.submit(project, task, work.annotation)
        works.append(work)
    accepted = sum(work.accepted for work in works)
    tell(f"project {project}: {accepted} proposals accepted, {len(works) - accepted} corrected")
    _wait_for_corrections(workplace, project, len(works))

    workplace.start_training(project)
    ended = _wait_for_gate(workplace, project, tell)
    tell(f"project {project}: {ended['state']}: {ended['reason']}")
    if ended["state"] == "failed":
        raise WorkError(f"the refinement failed: {ended['reason']}")
    version, digest = _export(workplace, project, prompts, promoted=ended["state"] == "promoted")
    if ended["state"] == "promoted":
        for sample in probes[:_SERVED_CHECKS]:
            _check_served(workplace, project, sample, version, digest)
        tell(f"project {project}: {version} is what is served")
    return Refined(
        seed=seed,
        tasks=len(works),
        accepted=accepted,
        proposal_iou=round(float(np.mean([work.iou for work in works])), 4),
        pages=sum(work.pages for work in works),
        outcome=ended["state"],
        reason=ended["reason"],
        gate=ended["metrics"],
        seconds=round(_seconds(ended), 1),
        version=version,
        digest=digest,
        base_version=workplace.base_version,
        machine=machine,
    )


def _wait_for_corrections(workplace: Workplace, project: int, count: int) -> None:
    """Wait until every annotation is a usable correction.

    Raises:
        WorkError: One was set aside, or it takes too long.
    """

    def all_usable() -> bool | None:
        stands = workplace.corrections(project)
        if stands["set_aside"]:
            reasons = "; ".join(str(problem["reason"]) for problem in stands["problems"])
            raise WorkError(f"{stands['set_aside']} corrections were set aside: {reasons}")
        waiting = stands["pending"] or stands["unprocessed"] or stands["usable"] < count
        return None if waiting else True

    wait_for(all_usable, f"{count} corrections of project {project}", _INGESTION_LIMIT)


def _wait_for_gate(workplace: Workplace, project: int, tell: Tell) -> dict[str, Any]:
    """The refinement as it ended; what it does meanwhile is told."""
    told = ""

    def ended() -> dict[str, Any] | None:
        nonlocal told
        status = workplace.refinement(project)
        current = status["current"]
        if current is None:
            return status["history"][0] if status["history"] else None
        if current["phase"] != told:
            told = current["phase"]
            tell(f"project {project}: {told}")
        return None

    return wait_for(ended, f"the gate of project {project}", _REFINEMENT_LIMIT, pause=1.0)


def _export(workplace: Workplace, project: int, folder: Path, *, promoted: bool) -> tuple[str, str]:
    """Take the newest version out of the backend; its name and digest, empty where there is none.

    Raises:
        WorkError: The version that is in use is not the newest although it was promoted, or the export is not
            what its name says.
    """
    known = workplace.versions(project)
    refined = [name for name in known["versions"] if name != workplace.base_version]
    if not refined:
        return "", ""
    if promoted != (known["current"] == refined[-1]):
        raise WorkError(
            f"the gate {'promoted' if promoted else 'kept back'} {refined[-1]}, but {known['current']} is in use"
        )
    name = refined[-1].removeprefix(f"{workplace.base_version}+")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive = folder / "version.zip"
    workplace.export(project, name, archive)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    archive.unlink()
    digest = SoftPrompts.load(folder).digest
    described = json.loads((folder / VERSION_FILE).read_text(encoding="utf-8"))
    if described["digest"] != digest or described["name"] != name:
        raise WorkError(f"the export of {name} holds {described['name']} with digest {digest}")
    return name, digest


def _check_served(workplace: Workplace, project: int, sample: Sample, version: str, digest: str) -> None:
    """Predict a task and compare what steered it with what was exported.

    Raises:
        WorkError: They differ.
    """
    served, steering = workplace.steered_by(project, sample)
    if served != f"{workplace.base_version}+{version}" or steering != digest:
        raise WorkError(
            f"a new task was predicted by {served} with soft prompts {steering}, expected {version} with {digest}"
        )


def _seconds(ended: dict[str, Any]) -> float:
    begun, finished = (datetime.fromisoformat(ended[name]) for name in ("started_at", "finished_at"))
    return (finished - begun).total_seconds()
