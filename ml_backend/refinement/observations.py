"""What proposals were worth on corrected tasks: computed once a correction, and kept by version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, delete, exists, select

from ml_backend.corrections.records import Correction
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.tables import CorrectionRow, CorrectionState, ObservationRow, ProposalKey
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.models.geometry import mask_iou
from ml_backend.proposals import ProposalFiles, StoredTracklet
from ml_backend.refinement.watching import Observation
from steerseg.masks import RLE
from steerseg.words.counting import instances_meant

_AT_ONCE = 50  # corrections that are looked at between two looks at the clock
_UNKNOWN = ""  # the version of a correction whose proposal is not known


class ObservationStore:
    """What is known of proposals in use. Safe to share between threads and processes.

    Every method raises :class:`~ml_backend.database.errors.StoreError` where the database cannot be used.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def unseen(self, limit: int = _AT_ONCE) -> list[int]:
        """Numbers of usable corrections that were not looked at in their present revision."""
        seen = exists().where(
            ObservationRow.correction_id == CorrectionRow.id,
            ObservationRow.revision == CorrectionRow.revision,
        )
        with self._database.reading() as session:
            return list(
                session.scalars(
                    select(CorrectionRow.id)
                    .where(CorrectionRow.state == CorrectionState.USABLE, ~seen)
                    .order_by(CorrectionRow.id)
                    .limit(limit)
                )
            )

    def note(self, correction: Correction, observed: Sequence[tuple[str, Observation]]) -> None:
        """Keep what versions' proposals were worth on a correction, in place of what was kept of it before."""
        rows = [
            ObservationRow(
                correction_id=correction.id,
                version=version,
                revision=correction.revision,
                project_id=correction.project_id,
                video=one.video,
                shown=one.shown,
                accepted=one.accepted,
                overlap=one.overlap,
            )
            for version, one in observed
        ]
        with self._database.writing() as session:
            session.execute(delete(ObservationRow).where(ObservationRow.correction_id == correction.id))
            session.add_all(rows)

    def drop_orphans(self) -> None:
        """Drop what is kept of corrections that are gone: the number of one may be given again."""
        orphaned = ~exists().where(CorrectionRow.id == ObservationRow.correction_id)
        with self._database.reading() as session:  # which keeps nobody from writing
            if session.scalar(select(ObservationRow.correction_id).where(orphaned).limit(1)) is None:
                return
        with self._database.writing() as session:
            session.execute(delete(ObservationRow).where(orphaned))

    def of_version(self, project_id: int, version: str) -> list[Observation]:
        """What is known of a version, by its full name: corrections that are usable still, in their order."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(ObservationRow)
                .join(
                    CorrectionRow,
                    and_(
                        CorrectionRow.id == ObservationRow.correction_id,
                        CorrectionRow.revision == ObservationRow.revision,
                    ),
                )
                .where(
                    ObservationRow.project_id == project_id,
                    ObservationRow.version == version,
                    CorrectionRow.state == CorrectionState.USABLE,
                )
                .order_by(ObservationRow.correction_id)
            )
            return [
                Observation(row.correction_id, row.video, row.shown, row.accepted, row.overlap)
                for row in rows
            ]

    def unknown(self, project_id: int) -> int:
        """How many corrections of a project have no known proposal, so that they say nothing of any version."""
        return len(self.of_version(project_id, _UNKNOWN))


@dataclass(frozen=True)
class Observer:
    """Compares corrections with the proposals that versions made for them.

    Attributes:
        proposals: Which proposals there are.
        files: Their files.
    """

    proposals: ProposalStore
    files: ProposalFiles

    def observe(self, correction: Correction, others: Sequence[str]) -> list[tuple[str, Observation]]:
        """What each version's proposal was worth on a correction, the shown one's first.

        Args:
            correction: The correction.
            others: Full names of versions whose proposals are compared where they made one for the same expression
                and media, though the annotator saw another one's.
        """
        proposed = correction.proposed
        shown = None if proposed is None else self._overlap(correction, proposed.path)
        if proposed is None or shown is None:
            return [(_UNKNOWN, Observation(correction.id, correction.group, True, False, 0.0))]
        several = instances_meant(proposed.key.expression) is not None
        accepted = not (correction.touched or correction.rejected) and (several or proposed.rank == 0)
        observed = [(proposed.version, self._observation(correction, shown, accepted=accepted))]
        # A rejection says what the object is not: nothing of another version's proposal.
        for version in () if correction.rejected else others:
            key = ProposalKey(proposed.key.media_digest, proposed.key.expression, version)
            path = self.proposals.find(key)
            overlap = None if path is None else self._overlap(correction, path)
            if overlap is not None:
                observed.append((version, self._observation(correction, overlap, accepted=None)))
        return observed

    def _observation(self, correction: Correction, overlap: float, *, accepted: bool | None) -> Observation:
        return Observation(
            correction.id,
            correction.group,
            shown=accepted is not None,
            accepted=bool(accepted),
            overlap=overlap,
        )

    def _overlap(self, correction: Correction, path: str) -> float | None:
        """Mean IoU of a proposal's best tracklet with the decided frames; ``None`` where its file is gone.

        Where presence was refused nothing was shown, which is right where the object is on none of the frames.

        An expression that means several objects has a tracklet for each: then the one that fits best counts.
        """
        try:
            stored = self.files.load(path)
        except StoreError:
            return None
        if correction.rejected or not correction.masks:
            return 0.0
        if not stored.offered:
            return _mean_iou(correction.masks, None)
        if (stored.height, stored.width) != (correction.height, correction.width):
            return None
        several = instances_meant(stored.expression) is not None
        candidates = stored.tracklets if several else stored.tracklets[:1]
        return max(_mean_iou(correction.masks, tracklet) for tracklet in candidates)


def _mean_iou(masks: dict[int, RLE | None], tracklet: StoredTracklet | None) -> float:
    def proposed(index: int) -> RLE | None:
        return None if tracklet is None or index >= len(tracklet.rles) else tracklet.rles[index]

    return sum(mask_iou(rle, proposed(index)) for index, rle in masks.items()) / len(masks)
