"""A prompt version as others read it: the JSON of an exported version, and lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from ml_backend.database.iso_time import IsoTime
from ml_backend.database.tables import PromptStatus
from ml_backend.refinement.gate import GateMetrics
from ml_backend.refinement.points import signed_points
from ml_backend.refinement.version_store import CorrectionRevision, PromptVersion

_TEXT = 200  # characters of a name
_STEPS = 1_000_000


class VersionCard(BaseModel):
    """A version with lineage, data, curve and metrics; see :class:`PromptVersion`.

    Attributes:
        project: Number of the project.
        name: Name in the project's line.
        parent: Name of the version that it was refined from; ``None`` for the preset's own soft prompts.
        status: How it stands.
        digest: Identity of its two matrices.
        model: The vision-language model that it was made for.
        origin: ``refined``, ``edited`` or ``imported``.
        refinement: Number of the refinement that made it.
        data: Corrections that it was trained on.
        curve: The loss of each step of its training.
        metrics: What the gate measured.
        reason: What the gate said.
        created_at: When it was stored.
        kept_back: Whether the gate kept it back.
    """

    model_config = ConfigDict(frozen=True)

    project: int
    name: str
    parent: str | None
    status: PromptStatus
    digest: str
    model: str
    origin: str
    refinement: int | None
    data: tuple[CorrectionRevision, ...]
    curve: tuple[float, ...]
    metrics: GateMetrics
    reason: str
    created_at: IsoTime
    kept_back: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; the time in ISO format."""
        return self.model_dump(mode="json")


class ExportedVersion(VersionCard):
    """The card of a version in an archive.

    Attributes:
        format: Format of the archive.
    """

    format: Literal[1]


class ReceivedVersion(BaseModel):
    """The part of an archive's card that an import needs; whatever else the card says is passed over.

    Attributes:
        format: Format of the archive.
        model: The vision-language model that the version was made for.
        name: Name in the project's line that it comes from.
        curve: The loss of each step of its training.
        metrics: What the gate measured there.
        reason: What the gate said there.
        kept_back: Whether the gate kept it back there; archives of earlier releases say it in the reason alone.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1]
    model: str = Field(max_length=_TEXT)
    name: str | None = Field(None, max_length=_TEXT)
    curve: tuple[FiniteFloat, ...] = Field((), max_length=_STEPS)
    metrics: GateMetrics = GateMetrics()
    reason: str = Field("", max_length=100 * _TEXT)
    kept_back: bool | None = None

    @field_validator("metrics")
    @classmethod
    def _measured(cls, metrics: GateMetrics) -> GateMetrics:
        gains = [] if metrics.expected is None else [metrics.expected]
        for measured in (metrics.held_out, metrics.regression):
            if measured is None:
                continue
            if not all(0.0 <= score <= 1.0 for score in (measured.candidate, measured.champion)):
                raise ValueError("expected J&F from 0 to 1")
            gains.append(measured.gain)
        # The interval of a mean that a prior has drawn may reach a little beyond what J&F can be.
        if not all(-2.0 <= number <= 2.0 for gain in gains for number in (gain.mean, gain.low, gain.high)):
            raise ValueError("expected gains and their intervals from -1 to 1")
        for score in (*metrics.examples, *metrics.replayed):
            if not (0.0 <= score.candidate <= 1.0 and 0.0 <= score.champion <= 1.0):
                raise ValueError("expected J&F from 0 to 1 of each example")
        return metrics

    @property
    def was_kept_back(self) -> bool:
        """Whether the gate kept it back there."""
        return self.reason.startswith("kept back") if self.kept_back is None else self.kept_back


def card_of(version: PromptVersion) -> VersionCard:
    """The card of a stored version."""
    return VersionCard(
        project=version.project_id,
        name=version.name,
        parent=version.parent,
        status=version.status,
        digest=version.digest,
        model=version.model,
        origin=version.origin,
        refinement=version.refinement_id,
        data=version.data,
        curve=version.curve,
        metrics=version.metrics,
        reason=version.reason,
        created_at=version.created_at,
        kept_back=version.kept_back,
    )


def exported(version: PromptVersion) -> ExportedVersion:
    """The card of a stored version for an archive."""
    return ExportedVersion(format=1, **dict(card_of(version)))


def describe_versions(versions: Sequence[PromptVersion]) -> list[str]:
    """The versions of a project as the lines of a table for a terminal, the preset's own soft prompts first."""
    crowned = any(version.status is PromptStatus.CHAMPION for version in versions)
    rows = [("preset", "" if crowned else "champion", "", "", "", "what the preset brings")]
    for version in versions:
        held_out = version.metrics.held_out
        rows.append(
            (
                version.name,
                str(version.status),
                version.parent or "preset",
                f"{len(version.data)}",
                "" if held_out is None else signed_points(held_out.gain.mean),
                version.reason,
            )
        )
    header = ("version", "status", "from", "corrections", "points", "reason")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in (header, *rows)
    ]
