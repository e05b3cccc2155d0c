"""Promoted versions in use: the rule, what it looks at, and what is taken back by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select

from benchmarks.refinement import watching as campaign
from ml_backend.corrections.records import ProposalReference
from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import ObservationRow, ProposalKey, RefinementState
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.proposals import ProposalFiles, StoredMaps, StoredPoint, StoredProposal, StoredTracklet
from ml_backend.refinement.gate import GateMetrics, Judgement, Outcome
from ml_backend.refinement.observations import ObservationStore
from ml_backend.refinement.store import Refinement, RefinementStore
from ml_backend.refinement.version_store import PRESET, NewVersion, VersionStore
from ml_backend.refinement.versions import PromptLine
from ml_backend.refinement.watcher import PromotionWatcher
from ml_backend.refinement.watching import RULE, Observation, WatchState, watch
from ml_backend.settings import Settings
from steerseg.masks import encode_rle
from tests.support.databases import EACH_DATABASE
from tests.support.refinement_world import FRAMES, HEIGHT, WIDTH, correct, film

pytestmark = EACH_DATABASE

BASE = "base"
EXPRESSION = "the bright square"
TASKS = RULE.videos


# --- the rule


def seen(overlaps: list[float], *, first: int = 0, shown: bool = True) -> list[Observation]:
    return [
        Observation(first + number, f"video{first + number}", shown, overlap == 1, overlap)
        for number, overlap in enumerate(overlaps)
    ]


def test_a_version_that_does_as_well_is_watched() -> None:
    same = [1.0, 0.0, 0.4] * 10
    assert watch(seen(same), seen(same, first=100)).state is WatchState.WATCHED
    assert watch(seen(same), seen(same, shown=False)).state is WatchState.WATCHED
    better = watch(seen([1.0] * 30), seen(same, first=100))
    assert better.state is WatchState.WATCHED
    assert better.difference is not None
    assert better.difference.worse < 0.01


def test_a_version_that_does_worse_on_the_same_tasks_is_found_sooner() -> None:
    new, old = [1.0, 1.0, 0.0] * 10, [1.0] * 30
    paired = watch(seen(new), seen(old, shown=False))
    assert paired.state is WatchState.WORSE
    assert paired.difference is not None
    assert paired.difference.paired
    before = watch(seen(new)[:TASKS], seen(old, first=100)[:TASKS])
    assert before.difference is not None
    assert not before.difference.paired
    assert before.state is WatchState.WATCHED, "fifteen tasks each may differ so much by chance"


def test_few_videos_are_never_enough_however_alike_they_are() -> None:
    assert watch(seen([0.0] * (TASKS - 1)), seen([1.0] * 90, first=100)).state is WatchState.TOO_FEW
    of_one_video = [Observation(number, "one", True, False, 0.0) for number in range(90)]
    assert watch(of_one_video, seen([1.0] * 90, first=100)).state is WatchState.TOO_FEW
    nothing = watch([], [])
    assert (nothing.state, nothing.new, nothing.old) == (WatchState.TOO_FEW, None, None)


def test_the_watch_ends_so_that_looking_again_and_again_costs_no_more() -> None:
    new = seen([0.0] * (RULE.tasks + 1))
    assert watch(new[:-1], seen([1.0] * 90, first=900)).state is WatchState.WORSE
    assert watch(new, seen([1.0] * 90, first=900)).state is WatchState.ENDED


def test_what_annotators_let_pass_does_not_count_against_the_version_before() -> None:
    """They accept what is shown where it is good, and the other version's outlines differ a little."""
    let_pass = watch(seen([1.0] * 60), seen([0.9] * 60, shown=False))
    assert let_pass.difference is not None
    assert let_pass.difference.mean == 0


def test_equal_versions_are_seldom_taken_back_and_losses_are_found() -> None:
    """The campaign at a smaller size; its table is in the documentation."""
    for setting in campaign.SETTINGS:
        for world in campaign.WORLDS:
            alarms = campaign.first_alarms(world, setting, 0.0, RULE, runs=300)
            assert (alarms > 0).mean() <= 0.08, (world.name, setting.name)
    both = campaign.SETTINGS[0]
    found = campaign.first_alarms(campaign.WORLDS[1], both, 0.1, RULE, runs=300)
    assert (found > 0).mean() > 0.75
    assert (campaign.first_alarms(campaign.WORLDS[1], both, 0.3, RULE, runs=300) > 0).all()


# --- in a project


class Desk:
    """A project whose tasks are films, with proposals and corrections of them."""

    def __init__(self, root: Path, *, watched: bool = True) -> None:
        self.settings = Settings(data_dir=root, watch_promotions=watched)
        self.database = Database(self.settings.database)
        ProjectStore(self.database).save(1, uid="1", label_config="<View/>", hostname="", extra_params={})
        self.versions = VersionStore(self.database)
        self.refinements = RefinementStore(self.database)
        self.line = PromptLine(self.versions, root, "model")
        self.watcher = PromotionWatcher(self.settings, self.database, self.line, BASE)

    def refine(self, digest: str) -> Refinement:
        """A refinement that promotes a version."""
        refinement = self.refinements.request(1, "a person")
        champion = self.versions.champion(1)
        self.refinements.begin(
            refinement.id,
            champion_id=None if champion is None else champion.id,
            base_version=BASE,
            at=datetime.now(UTC),
        )
        new = NewVersion("prompts/x", digest * 8, "model", "refined", None, refinement_id=refinement.id)
        return self.refinements.settle(
            refinement.id, Judgement(Outcome.PROMOTED, "better", GateMetrics()), new
        )

    def propose(
        self, number: int, version: str, masks: NDArray[np.bool_], rank: int = 0
    ) -> ProposalReference:
        """Have a version propose masks for a film, behind others that are empty."""
        key = ProposalKey(f"digest-of-film{number}", EXPRESSION, version)
        empty = np.zeros_like(masks)
        tracklets = tuple(
            StoredTracklet(
                tuple(encode_rle(mask) for mask in part),
                np.ones(FRAMES, np.float32),
                StoredPoint(0, 1, 1, 1),
                0.9,
            )
            for part in [*[empty] * rank, masks]
        )
        stored = StoredProposal(
            EXPRESSION,
            (),
            tracklets,
            StoredMaps((0,), None, None, []),
            (),
            np.arange(FRAMES, dtype=np.float64),
            5.0,
            HEIGHT,
            WIDTH,
            {},
        )
        path = ProposalFiles(self.settings.data_dir).save(key, stored)
        ProposalStore(self.database).add(key, project_id=1, task_id=10_000 + number, path=path, score=0.9)
        return ProposalReference(key, path, rank)

    def correct(
        self,
        number: int,
        version: str,
        *,
        good: bool,
        other: tuple[str, bool] | None = None,
        source: str | None = None,
    ) -> None:
        """A task that a version proposed for, well or badly; perhaps another version did as well."""
        truth = film(number)[1]
        if other is not None:
            self.propose(number, other[0], truth if other[1] else ~truth)
        proposed = self.propose(number, version, truth if good else ~truth)
        correct(self.database, 1, number, truth, proposed=proposed, touched=not good, source=source)

    def look(self) -> None:
        self.watcher._look()

    def champion(self) -> str:
        champion = self.versions.champion(1)
        return PRESET if champion is None else champion.name


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def promoted(desk: Desk, digest: str = "a") -> str:
    assert desk.refine(digest).state is RefinementState.PROMOTED
    return desk.champion()


def test_a_version_that_does_worse_in_use_is_taken_back_with_the_reason(desk: Desk) -> None:
    name = promoted(desk)
    for number in range(2 * TASKS):
        desk.correct(number, f"{BASE}+{name}", good=number % 2 == 0, other=(BASE, True))
    desk.look()
    assert desk.champion() == PRESET
    (promotion,) = desk.versions.promotions(1)
    assert promotion.undone
    assert promotion.failed_because.startswith("in use it does worse than the preset's own soft prompts")
    assert f"{2 * TASKS} videos that both proposed for" in promotion.failed_because
    assert "Accepted as they were: 50%" in promotion.failed_because
    assert promotion.failed_because in desk.versions.version(1, name).reason
    assert desk.watcher.standing(1) is None


def test_parts_of_one_film_are_one_video_in_use(desk: Desk) -> None:
    name = promoted(desk)
    for number in range(2 * TASKS):
        desk.correct(number, f"{BASE}+{name}", good=False, other=(BASE, True), source=f"{number % 3}.mp4")
    desk.look()
    standing = desk.watcher.standing(1)
    assert standing is not None
    assert standing.watch.state is WatchState.TOO_FEW
    assert standing.watch.new is not None
    assert (standing.watch.new.tasks, standing.watch.new.videos) == (2 * TASKS, 3)


def test_tasks_of_before_are_compared_where_the_version_before_proposed_for_no_others(desk: Desk) -> None:
    for number in range(40):
        desk.correct(number, BASE, good=True)
    name = promoted(desk)
    for number in range(100, 100 + TASKS - 1):
        desk.correct(number, f"{BASE}+{name}", good=False)
    desk.look()
    standing = desk.watcher.standing(1)
    assert standing is not None
    assert standing.watch.state is WatchState.TOO_FEW
    assert standing.watch.old is not None
    assert (standing.watch.old.tasks, standing.watch.old.accepted) == (40, 1.0)
    desk.correct(200, f"{BASE}+{name}", good=False)
    desk.look()
    assert desk.champion() == PRESET
    assert "before" in desk.versions.promotions(1)[0].failed_because


def test_what_a_person_promotes_stays(desk: Desk) -> None:
    name = promoted(desk)
    for number in range(2 * TASKS):
        desk.correct(number, f"{BASE}+{name}", good=False, other=(BASE, True))
    desk.look()
    assert desk.champion() == PRESET
    desk.versions.promote(1, name, by="a person")
    desk.look()
    assert desk.champion() == name
    standing = desk.watcher.standing(1)
    assert standing is not None
    assert standing.watch.state is WatchState.WORSE
    assert not standing.revocable


def test_a_champion_that_a_person_rolled_back_to_stays(desk: Desk) -> None:
    first = promoted(desk)
    promoted(desk, "b")
    assert desk.versions.roll_back(1) == first
    for number in range(2 * TASKS):
        desk.correct(number, f"{BASE}+{first}", good=False, other=(BASE, True))
    desk.look()
    assert desk.champion() == first


def test_the_setting_leaves_versions_where_they_are(tmp_path: Path) -> None:
    desk = Desk(tmp_path, watched=False)
    name = promoted(desk)
    for number in range(2 * TASKS):
        desk.correct(number, f"{BASE}+{name}", good=False, other=(BASE, True))
    desk.look()
    assert desk.champion() == name


def test_prompts_that_failed_are_not_promoted_by_themselves_again(desk: Desk) -> None:
    name = promoted(desk)
    (promotion,) = desk.versions.promotions(1)
    assert desk.versions.take_back(1, promotion.id, "worse") == PRESET
    assert desk.versions.take_back(1, promotion.id, "worse") is None, "once"
    again = desk.refine("a")
    assert again.state is RefinementState.KEPT_BACK
    assert "did worse in use" in again.reason
    assert promoted(desk, "b") != name
    desk.versions.promote(1, name, by="a person")
    desk.versions.promote(1, PRESET, by="a person")
    assert desk.refine("a").state is RefinementState.PROMOTED, "a person has promoted them since"


def test_the_proposal_that_was_shown_first_counts(desk: Desk) -> None:
    """The second candidate was right: nothing was accepted as it was proposed."""
    name = promoted(desk)
    truth = film(1)[1]
    proposed = desk.propose(1, f"{BASE}+{name}", truth, rank=1)
    correct(desk.database, 1, 1, truth, proposed=proposed, touched=False)
    desk.look()
    standing = desk.watcher.standing(1)
    assert standing is not None
    assert standing.watch.new is not None
    assert (standing.watch.new.accepted, standing.watch.new.overlap) == (0.0, 0.0)


def test_what_cannot_be_compared_is_counted_and_what_is_gone_is_forgotten(desk: Desk) -> None:
    name = promoted(desk)
    correct(desk.database, 1, 1, film(1)[1])
    desk.correct(2, f"{BASE}+{name}", good=True)
    desk.look()
    standing = desk.watcher.standing(1)
    assert standing is not None
    assert standing.unknown == 1
    assert standing.watch.new is not None
    assert standing.watch.new.tasks == 1
    assert ObservationStore(desk.database).unseen() == []
    with desk.database.writing() as session:
        row = session.scalars(select(ObservationRow).limit(1)).one()
        session.add(
            ObservationRow(
                correction_id=999,
                version="gone",
                revision="r",
                project_id=1,
                video=row.video,
                shown=True,
                accepted=True,
                overlap=1.0,
            )
        )
    desk.look()
    with desk.database.reading() as session:
        assert 999 not in session.scalars(select(ObservationRow.correction_id)).all()


def test_a_look_at_nothing_new_writes_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.correct(1, f"{BASE}+{promoted(desk)}", good=True)
    desk.look()

    def write(_: Database) -> NoReturn:
        raise AssertionError("it would keep others from writing")

    monkeypatch.setattr(Database, "writing", write)
    desk.look()
