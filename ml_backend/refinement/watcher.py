"""Promoted versions watched in use, and taken back by themselves where they do worse than the version before."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ml_backend.background import BackgroundLoop
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.proposals import ProposalFiles
from ml_backend.refinement.observations import ObservationStore, Observer
from ml_backend.refinement.version_store import Promotion
from ml_backend.refinement.versions import PromptLine
from ml_backend.refinement.watching import RULE, Use, Watch, WatchState, watch
from ml_backend.settings import Settings

log = logging.getLogger(__name__)

_TICK = 5.0  # seconds between two looks at what was corrected


@dataclass(frozen=True)
class WatchedPromotion:
    """The newest promotion of a project, and how its version does in use.

    Attributes:
        promotion: The promotion.
        watch: How its version does.
        revocable: Whether it is taken back by itself where it does worse.
        unknown: Corrections of the project whose proposal is not known, and that say nothing here.
    """

    promotion: Promotion
    watch: Watch
    revocable: bool
    unknown: int


class PromotionWatcher:
    """Follows what annotators keep of proposals. Safe to share between threads.

    Args:
        settings: Where proposals lie, and whether versions are taken back by themselves.
        database: The database.
        line: The prompt versions.
        base: Version of predictions by the preset's own soft prompts.
    """

    def __init__(self, settings: Settings, database: Database, line: PromptLine, base: str) -> None:
        self._enabled = settings.watch_promotions
        self._line = line
        self._base = base
        self._projects = ProjectStore(database)
        self._corrections = CorrectionStore(database)
        self._observations = ObservationStore(database)
        self._observer = Observer(ProposalStore(database), ProposalFiles(settings.data_dir))
        self.loop = BackgroundLoop("watch", self._look, pause=_TICK)

    def start(self) -> None:
        """Begin, with the corrections that nobody looked at yet."""
        self.loop.start()

    def close(self) -> None:
        """Stop; what is left is looked at after the next start. May be repeated."""
        self.loop.close()

    def standing(self, project_id: int) -> WatchedPromotion | None:
        """How the version that was promoted last does; ``None`` where nothing was, or it is not in use.

        Raises:
            StoreError: The database cannot be read.
        """
        promotion = next((one for one in self._line.versions.promotions(project_id) if not one.undone), None)
        champion = self._line.champion(project_id)
        if promotion is None or promotion.version != (None if champion is None else champion.name):
            return None
        new, old = (
            self._observations.of_version(project_id, self._full_name(name))
            for name in (promotion.version, promotion.previous)
        )
        revocable = self._enabled and promotion.revocable
        return WatchedPromotion(promotion, watch(new, old), revocable, self._observations.unknown(project_id))

    def _look(self) -> float:
        """Compare what was corrected, and take back what does worse; return the seconds until the next look."""
        self._observations.drop_orphans()
        while not self.loop.closing and self._observe():
            pass
        for project in self._projects.all():
            if not self.loop.closing:
                self._decide(project.id)
        return _TICK

    def _observe(self) -> bool:
        """Compare some corrections with what was proposed for them; return whether there were any."""
        numbers = self._observations.unseen()
        for correction in self._corrections.of_numbers(numbers):
            proposed = correction.proposed
            others = [] if proposed is None else self._others(correction.project_id, proposed.version)
            self._observations.note(correction, self._observer.observe(correction, others))
        return bool(numbers)

    def _others(self, project_id: int, version: str) -> list[str]:
        """Full names of the versions that one followed, by the same release and preset."""
        base, _, name = version.partition("+")
        previous = {
            one.previous
            for one in self._line.versions.promotions(project_id)
            if one.version == (name or None)
        }
        return sorted({_full(base, one) for one in previous} - {version})

    def _decide(self, project_id: int) -> None:
        standing = self.standing(project_id)
        if standing is None or not standing.revocable or standing.watch.state is not WatchState.WORSE:
            return
        promotion = standing.promotion
        reason = describe_loss(standing)
        name = self._line.versions.take_back(project_id, promotion.id, reason, self._line.check)
        if name is not None:
            log.warning(
                "project %d: %s is taken back, %s is used again: %s",
                project_id,
                promotion.version,
                name,
                reason,
            )

    def _full_name(self, name: str | None) -> str:
        return _full(self._base, name)


def describe_loss(standing: WatchedPromotion) -> str:
    """Why a version is taken back, in text and numbers."""
    watch, previous = standing.watch, standing.promotion.previous or "the preset's own soft prompts"
    assert watch.difference is not None
    text = (
        f"in use it does worse than {previous}: overlap with what was accepted {watch.difference}; a loss above "
        f"{RULE.margin:g} is {watch.difference.worse:.1%} probable"
    )
    accepted = [_accepted(use, when) for use, when in ((watch.old, "before"), (watch.new, "after")) if use]
    return f"{text}. Accepted as they were: {', '.join(accepted)}"


def _accepted(use: Use, when: str) -> str:
    return f"{use.accepted:.0%} of {use.tasks} {when}"


def _full(base: str, name: str | None) -> str:
    return base if name is None else f"{base}+{name}"
