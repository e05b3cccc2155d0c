"""Decisions and completions as the database keeps them: compressed JSON, written and read through models.

The order of the fields, and the way in which numbers and times are written, are part of the format. A revision is a
hash of them, and a correction whose revision changed is completed anew.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer

from ml_backend.corrections.records import (
    Completion,
    DecidedFrame,
    Decision,
    Evidence,
    FrameCorrection,
    ProposalReference,
    Side,
    Verdict,
)
from ml_backend.database.errors import DamagedValueError
from ml_backend.database.tables import ProposalKey
from ml_backend.models.geometry import Box, TrackBox
from ml_backend.models.messages import PropagatedFrame
from steerseg.masks import RLE

_NOT_HASHED = frozenset(
    {"created_at", "updated_at", "lead_time", "label", "confidences", "notes", "numbering"}
)
_LATER = frozenset({"label", "confidences", "undecided", "notes", "numbering"})
Time = Annotated[datetime, PlainSerializer(datetime.isoformat)]


class _Document(BaseModel):
    """A JSON document that the database keeps."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    def pack(self) -> bytes:
        """The document as the database keeps it."""
        return zlib.compress(json.dumps(self.to_json(), separators=(",", ":")).encode(), 6)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """What :meth:`pack` gave.

        Raises:
            DamagedValueError: It is something else.
        """
        try:
            return cls.model_validate(json.loads(zlib.decompress(packed)))
        except (zlib.error, ValueError, RecursionError) as error:
            raise DamagedValueError(
                f"the database holds a {cls.__name__} that cannot be read ({type(error).__name__}); "
                "restore a backup, or delete its annotation in Label Studio"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """JSON-ready. What later releases added is written only where it says something."""
        content = self.model_dump(mode="json")
        return {name: value for name, value in content.items() if value or name not in _LATER}


class MaskDocument(BaseModel):
    """A mask in COCO's compressed run-length encoding."""

    model_config = ConfigDict(frozen=True)

    size: tuple[int, int]  # height, width
    counts: str

    @classmethod
    def of(cls, rle: RLE | None) -> MaskDocument | None:
        """The document of a mask; ``None`` where nothing is visible."""
        return None if rle is None else cls(size=(rle["size"][0], rle["size"][1]), counts=rle["counts"])

    def rle(self) -> RLE:
        """The mask."""
        return RLE(size=list(self.size), counts=self.counts)


DecidedFrameEntry = tuple[MaskDocument | None, tuple[TrackBox, ...], bool | None]
"""Mask, boxes, and whether the region was changed; see :class:`~ml_backend.corrections.records.DecidedFrame`."""

FrameCorrectionEntry = tuple[Evidence, MaskDocument | None, tuple[Box, ...], bool, float | None]
"""Kind, mask, boxes, touched and IoU; see :class:`~ml_backend.corrections.records.FrameCorrection`."""

PropagatedFrameEntry = tuple[MaskDocument | None, float]
"""Mask and confidence; see :class:`~ml_backend.models.messages.PropagatedFrame`."""


class DecisionDocument(_Document):
    """A decision, less what has columns of its own: object, expression, verdict and problem."""

    side: Side
    frames: dict[int, DecidedFrameEntry]
    absent_elsewhere: bool
    erased: bool
    proposed_expression: str | None
    parent_prediction: int | None
    task_data: dict[str, Any]
    label_config: str
    lead_time: float | None
    created_at: Time | None
    updated_at: Time | None
    # Documents of earlier releases lack these.
    label: str | None = None
    confidences: dict[int, float] = {}
    undecided: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    numbering: tuple[int, float] | None = None

    @classmethod
    def of(cls, decision: Decision) -> DecisionDocument:
        """The document of a decision."""
        return cls(
            side=decision.side,
            frames={
                index: (MaskDocument.of(frame.rle), frame.boxes, frame.changed)
                for index, frame in sorted(decision.frames.items())
            },
            absent_elsewhere=decision.absent_elsewhere,
            erased=decision.erased,
            proposed_expression=decision.proposed_expression,
            parent_prediction=decision.parent_prediction,
            task_data=dict(decision.task_data),
            label_config=decision.label_config,
            lead_time=decision.lead_time,
            created_at=decision.created_at,
            updated_at=decision.updated_at,
            label=None if decision.label == _label_of(decision.object) else decision.label,
            confidences={
                index: frame.confidence
                for index, frame in sorted(decision.frames.items())
                if frame.confidence is not None
            },
            undecided=tuple(sorted(decision.undecided)),
            notes=decision.notes,
            numbering=decision.numbering,
        )

    def decision(self, *, instance: str, expression: str, verdict: str | None) -> Decision:
        """The decision.

        Args:
            instance: Its column ``object``.
            expression: Its column of this name.
            verdict: Likewise.
        """
        return Decision(
            object=instance,
            expression=expression,
            side=self.side,
            frames={
                index: DecidedFrame(_rle(mask), boxes, changed, self.confidences.get(index))
                for index, (mask, boxes, changed) in self.frames.items()
            },
            absent_elsewhere=self.absent_elsewhere,
            erased=self.erased,
            verdict=None if verdict is None else Verdict(verdict),
            proposed_expression=self.proposed_expression,
            parent_prediction=self.parent_prediction,
            task_data=self.task_data,
            label_config=self.label_config,
            lead_time=self.lead_time,
            created_at=self.created_at,
            updated_at=self.updated_at,
            label=_label_of(instance) if self.label is None else self.label,
            undecided=frozenset(self.undecided),
            notes=self.notes,
            numbering=self.numbering,
        )

    def revision(self, decision: Decision) -> str:
        """Hash of all that counts in a decision.

        Times do not: an annotation that was saved again without a change is the same correction.
        """
        content = {name: value for name, value in self.to_json().items() if name not in _NOT_HASHED}
        content |= {
            "expression": decision.expression,
            "verdict": decision.verdict,
            "object": decision.object,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ProposalReferenceDocument(BaseModel):
    """Which tracklet of which proposal a correction began from."""

    model_config = ConfigDict(frozen=True)

    class Key(BaseModel):
        """See :class:`~ml_backend.database.tables.ProposalKey`."""

        model_config = ConfigDict(frozen=True)

        media_digest: str
        expression: str
        version: str

    key: Key
    path: str
    rank: int

    @classmethod
    def of(cls, reference: ProposalReference) -> ProposalReferenceDocument:
        """The document of a reference."""
        key = reference.key
        return cls(
            key=cls.Key(media_digest=key.media_digest, expression=key.expression, version=key.version),
            path=reference.path,
            rank=reference.rank,
        )

    def reference(self) -> ProposalReference:
        """The reference."""
        key = ProposalKey(self.key.media_digest, self.key.expression, self.key.version)
        return ProposalReference(key, self.path, self.rank)


class CompletionDocument(_Document):
    """A completion."""

    media_digest: str
    num_frames: int
    height: int
    width: int
    frames: dict[int, FrameCorrectionEntry]
    propagated: dict[int, PropagatedFrameEntry]
    proposed: ProposalReferenceDocument | None
    confidences: dict[int, float] = {}  # of decided frames; those that are missing have 1

    @classmethod
    def of(cls, completion: Completion) -> CompletionDocument:
        """The document of a completion; weights are not kept, since settings name them."""
        proposed = completion.proposed
        return cls(
            media_digest=completion.media_digest,
            num_frames=completion.num_frames,
            height=completion.height,
            width=completion.width,
            frames={
                index: (frame.kind, MaskDocument.of(frame.rle), frame.boxes, frame.touched, frame.iou)
                for index, frame in sorted(completion.frames.items())
            },
            propagated={
                index: (MaskDocument.of(frame.rle), round(frame.confidence, 4))
                for index, frame in sorted(completion.propagated.items())
            },
            proposed=None if proposed is None else ProposalReferenceDocument.of(proposed),
            confidences={
                index: round(frame.confidence, 4)
                for index, frame in sorted(completion.frames.items())
                if frame.confidence != 1.0
            },
        )

    def completion(self) -> Completion:
        """The completion, all frames with the weight 1."""
        return Completion(
            media_digest=self.media_digest,
            num_frames=self.num_frames,
            height=self.height,
            width=self.width,
            frames={
                index: FrameCorrection(
                    kind,
                    _rle(mask),
                    boxes,
                    touched,
                    weight=1.0,
                    iou=iou,
                    confidence=self.confidences.get(index, 1.0),
                )
                for index, (kind, mask, boxes, touched, iou) in self.frames.items()
            },
            propagated={
                index: PropagatedFrame(_rle(mask), confidence)
                for index, (mask, confidence) in self.propagated.items()
            },
            proposed=None if self.proposed is None else self.proposed.reference(),
        )


def _rle(mask: MaskDocument | None) -> RLE | None:
    return None if mask is None else mask.rle()


def _label_of(instance: str) -> str:
    """The label in the name that releases gave an instance before they kept its label."""
    return instance.removeprefix("track ")
