"""From corrections to a plan: which videos are learned from, which are held out, and what is replayed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from ml_backend.corrections.records import Correction, Evidence, FrameCorrection, ProposalReference, Verdict
from ml_backend.database.errors import StoreError
from ml_backend.database.tables import ProposalKey
from ml_backend.models.examples import Pool
from ml_backend.models.messages import PropagatedFrame
from ml_backend.refinement.gate import Scheme
from ml_backend.refinement.plan import InsufficientData, Plan, make_plan, proposed_masks
from ml_backend.refinement.plan_file import pack_plan, unpack_plan
from ml_backend.refinement.version_store import CorrectionRevision
from steerseg.config import RefinementRecipe
from steerseg.masks import RLE, encode_rle
from steerseg.presets import ReplaySpec

TIME = datetime(2026, 11, 22, tzinfo=UTC)
RECIPE = RefinementRecipe(min_videos=4, held_out=0.25, min_held_out=3, folds=3)


def mask(left: int = 2, *, empty: bool = False) -> RLE:
    pixels = np.zeros((10, 16), dtype=bool)
    if not empty:
        pixels[2:8, left : left + 4] = True
    return encode_rle(pixels)


def frame(rle: RLE | None, *, weight: float = 1.0, iou: float | None = 1.0) -> FrameCorrection:
    kind = Evidence.EMPTY if rle is None else Evidence.MASK
    return FrameCorrection(kind, rle, (), touched=weight == 1.0, weight=weight, iou=iou)


def correction(
    number: int, video: str, frames: Mapping[int, FrameCorrection] | None = None, **changes: Any
) -> Correction:
    made = Correction(
        id=number,
        revision=f"revision-{number}-long-enough",
        project_id=1,
        task_id=100 + number,
        annotation_id=200 + number,
        object="object",
        expression="the ball",
        media_digest=video,
        task_data={"frames": [f"{video}.jpg"]},
        label_config="<View/>",
        side="frames",
        num_frames=3,
        height=10,
        width=16,
        frames=frames if frames is not None else {0: frame(mask()), 2: frame(mask(5))},
        propagated={},
        proposed=ProposalReference(ProposalKey(video, "the ball", "v1"), f"{video}.json.gz", 0),
        verdict=None,
        lead_time=None,
        created_at=TIME,
        updated_at=TIME,
        changed_at=TIME,
    )
    return replace(made, **changes)


def plan(
    corrections: list[Correction],
    *,
    used: tuple[CorrectionRevision, ...] = (),
    recipe: RefinementRecipe = RECIPE,
    replay: ReplaySpec | None = None,
) -> Plan:
    made = make_plan(
        corrections,
        used=used,
        recipe=recipe,
        replay=replay,
        confidence=0.8,
        rejected=lambda _: {0: mask(10)},
    )
    assert isinstance(made, Plan)
    return made


def test_too_few_videos_are_said_in_words_and_numbers() -> None:
    def made(videos: int) -> Plan | InsufficientData:
        some = [correction(n, f"video{n % videos}") for n in range(9)]
        return make_plan(
            some, used=(), recipe=RECIPE, replay=None, confidence=0.8, rejected=lambda correction: None
        )

    one, three = made(1), made(3)
    assert isinstance(one, InsufficientData)
    assert one.reason == "corrections on 1 videos show an object, at least 4 are needed"
    assert isinstance(three, Plan)  # words may be learned all the same
    assert three.trainings == ()
    assert three.shortage == "corrections on 3 videos show an object, at least 4 are needed"
    assert len(three.used) == 9


def test_videos_are_split_not_corrections_and_never_change_sides() -> None:
    some = [correction(n, f"video{n // 2}") for n in range(80)]
    made = plan(some)
    assert made.scheme is Scheme.HELD_OUT
    learned = {made.corrections[key].video for key in made.candidate.keys}
    held_out = {made.corrections[trial.key].video for trial in made.held_out}
    assert learned | held_out == {f"video{n}" for n in range(40)}
    assert not learned & held_out
    assert 3 <= len(held_out) <= 20
    grown = plan([*some, *(correction(1000 + n, f"more{n}") for n in range(60))])
    assert held_out == {
        video
        for trial in grown.held_out
        if not (video := grown.corrections[trial.key].video).startswith("more")
    }


def part(number: int, film: str, **changes: Any) -> Correction:
    """A correction on a part of a film, imported with ``--split-pages``."""
    data = {"frames": [f"{film}-{number}.jpg"], "source": f"{film}.mp4", "part": f"part {number}"}
    return correction(number, f"{film}-{number}", task_data=data, **changes)


def test_parts_of_one_film_stay_on_one_side() -> None:
    made = plan([part(number, f"film{number // 5}") for number in range(200)])
    assert made.scheme is Scheme.HELD_OUT
    learned = {made.corrections[key].group for key in made.candidate.keys}
    held_out = {made.corrections[trial.key].group for trial in made.held_out}
    assert learned | held_out == {f"film{number}.mp4" for number in range(40)}
    assert not learned & held_out
    assert len({made.corrections[key].video for key in made.corrections}) == 200, (
        "each part has its own media"
    )


def test_no_fold_is_tried_on_parts_of_a_film_that_it_learned_from() -> None:
    made = plan([part(number, f"film{number % 4}") for number in range(56)])
    assert made.scheme is Scheme.CROSS_VALIDATION
    groups = {key: example.group for key, example in made.corrections.items()}
    learned = {training.name: {groups[key] for key in training.keys} for training in made.trainings}
    assert all(groups[trial.key] not in learned[trial.training] for trial in made.held_out)
    assert len(made.held_out) == 56


def test_parts_of_one_film_count_as_one_video() -> None:
    def reason(parts: list[Correction]) -> str:
        made = make_plan(
            parts, used=(), recipe=RECIPE, replay=None, confidence=0.8, rejected=lambda correction: None
        )
        return made.reason if isinstance(made, InsufficientData) else made.shortage

    parts = [part(number, "film") for number in range(14)]
    needed = "show an object, at least 4 are needed"
    assert reason(parts) == f"corrections on 1 videos {needed}"
    others = [part(20, "other"), correction(21, "without a source")]
    assert reason([*parts, *others]) == f"corrections on 3 videos {needed}"


def test_few_videos_are_cross_validated_and_all_of_them_make_the_candidate() -> None:
    made = plan([correction(n, f"video{n}") for n in range(5)])
    assert made.scheme is Scheme.CROSS_VALIDATION
    assert [training.name for training in made.trainings] == ["fold-1", "fold-2", "fold-3", "candidate"]
    assert len(made.candidate.keys) == 5
    assert len(made.used) == 5
    assert sorted(trial.key for trial in made.held_out) == sorted(made.corrections)
    for trial in made.held_out:
        (training,) = [training for training in made.trainings if training.name == trial.training]
        assert trial.key not in training.keys
    assert sum(len(training.keys) for training in made.trainings[:-1]) == 10


def test_what_the_champion_has_seen_is_old_and_what_was_changed_since_is_new() -> None:
    some = [correction(n, f"video{n}") for n in range(4)]
    used = ((0, some[0].revision), (1, "another revision"), (99, "gone"))
    pools = [example.pool for example in plan(some, used=used).corrections.values()]
    assert pools == [Pool.OLD, Pool.NEW, Pool.NEW, Pool.NEW]


def test_the_presets_replay_set_takes_part() -> None:
    made = plan(
        [correction(n, f"video{n}") for n in range(4)],
        replay=ReplaySpec(source="sprites", training=3, held_out=2),
    )
    assert [example.key for example in made.replayed] == [f"replay-training-{n}" for n in range(3)]
    assert [example.key for example in made.regression] == ["replay-held_out-0", "replay-held_out-1"]
    assert not plan([correction(n, f"video{n}") for n in range(4)]).replayed


def test_sure_propagated_masks_are_learned_from_but_judge_nothing() -> None:
    propagated = {1: PropagatedFrame(mask(4), 0.9), 2: PropagatedFrame(mask(4), 0.3)}
    frames = {0: frame(mask(), weight=0.25, iou=1.0)}
    some = [correction(n, f"video{n}", frames, propagated=propagated) for n in range(4)]
    example = plan(some).corrections["c0-revision-0-l"]
    assert sorted(example.truth) == [0, 1]
    assert example.weight == 0.25
    assert dict(example.shares) == {0: 1.0, 1: 0.9}
    assert example.decided == {0}
    assert example.judges


def test_who_drew_the_object_of_another_tracklet_was_misunderstood() -> None:
    """A typed expression notes no tracklet: the one that overlaps most is found again, and is not what was shown."""
    drawn = correction(1, "video0", {0: frame(mask(5), iou=1.0)})
    assert drawn.proposed is not None
    second = replace(drawn, proposed=replace(drawn.proposed, rank=1))
    several = replace(
        second, proposed=replace(drawn.proposed, rank=1, key=ProposalKey("video0", "the two balls", "v1"))
    )
    found = {}
    for name, one in (("first", drawn), ("second", second), ("several", several)):
        (example, *_) = plan([one, *(correction(n, f"video{n}") for n in range(2, 9))]).corrections.values()
        found[name] = (example.overlap, len(example.rejected))
    assert found == {"first": (1.0, 0), "second": (0.0, 1), "several": (1.0, 0)}


@pytest.mark.parametrize(
    ("changes", "truth", "wrong", "judges"),
    [
        ({"verdict": Verdict.REJECT}, [], 1, False),
        ({"frames": {0: frame(mask(), iou=0.1), 2: frame(mask(), iou=0.2)}}, [0, 2], 1, True),
        ({"frames": {0: frame(mask(), iou=0.9), 2: frame(mask(), iou=0.8)}}, [0, 2], 0, True),
        ({"frames": {0: frame(None, iou=0.0)}, "verdict": Verdict.NOT_VISIBLE}, [0], 1, False),
    ],
)
def test_wrong_answers_come_from_rejected_and_replaced_proposals(
    changes: dict[str, Any], truth: list[int], wrong: int, judges: bool
) -> None:
    some = [correction(n, f"video{n}") for n in range(4)]
    example = plan([*some, correction(9, "video9", **changes)]).corrections["c9-revision-9-l"]
    assert sorted(example.truth) == truth
    assert len(example.rejected) == wrong
    assert example.judges == judges


def test_what_can_teach_nothing_is_left_out() -> None:
    some = [correction(n, f"video{n}") for n in range(4)]
    nothing = correction(9, "video9", {0: frame(None, weight=0.25)})
    assert sorted(plan([*some, nothing]).corrections) == [f"c{n}-revision-{n}-l" for n in range(4)]


def test_a_plan_comes_back_from_disk_as_it_was() -> None:
    some = [correction(n, f"video{n}", propagated={1: PropagatedFrame(None, 0.9)}) for n in range(3)]
    some.append(correction(3, "video3", verdict=Verdict.REJECT))
    some.append(correction(4, "video4", label_config="<View2/>"))
    made = plan(some, replay=ReplaySpec(source="sprites", training=3, held_out=2))
    assert unpack_plan(pack_plan(made)) == made
    with pytest.raises(StoreError, match="cannot be read"):
        unpack_plan(pack_plan(made)[:50])


def test_videos_of_a_plan_of_an_earlier_release_are_told_apart_by_their_media() -> None:
    made = plan([part(number, f"film{number // 2}") for number in range(8)])
    stored = json.loads(gzip.decompress(pack_plan(made)))
    for one in stored["corrections"]:
        del one["group"]
    read = unpack_plan(gzip.compress(json.dumps(stored).encode()))
    assert [example.group for example in read.corrections.values()] == [
        f"film{number // 2}-{number}" for number in range(8)
    ]
    assert (read.trainings, read.held_out) == (made.trainings, made.held_out)


def test_examples_can_be_left_out_later() -> None:
    made = plan([correction(n, f"video{n}") for n in range(5)])
    key = "c2-revision-2-l"
    less = made.without({key})
    assert key not in less.corrections
    assert all(key not in training.keys for training in less.trainings)
    assert all(trial.key != key for trial in less.held_out)
    assert len(less.used) == 4


def test_a_proposal_that_is_gone_or_of_another_size_is_no_wrong_answer() -> None:
    class Tracklet:
        rles = (mask(), mask(), mask())

    class Stored:
        tracklets = (Tracklet(),)

    def missing(path: str) -> Any:
        raise StoreError("gone")

    given = correction(1, "video")
    assert proposed_masks(lambda path: Stored())(given) == {0: mask(), 1: mask(), 2: mask()}
    assert proposed_masks(lambda path: Stored())(replace(given, num_frames=4)) is None
    assert proposed_masks(lambda path: Stored())(replace(given, width=20)) is None
    assert proposed_masks(lambda path: Stored())(replace(given, proposed=None)) is None
    assert proposed_masks(missing)(given) is None
