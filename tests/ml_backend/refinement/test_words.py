"""What corrections teach about words is tried before it is used, and travels with the prompt version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml_backend.database.tables import PromptStatus, RefinementState
from ml_backend.models.examples import CorrectionExample
from ml_backend.models.messages import (
    ModelAnswer,
    ModelRequest,
    NamedObject,
    NameRequest,
    SoftPromptsRef,
    TrialRequest,
    TrialResult,
)
from ml_backend.refinement.words import WordLessons, WordsJudgement
from steerseg.config import RefinementRecipe
from steerseg.pipeline import SteerSeg
from steerseg.soft_prompts import SoftPrompts
from steerseg.words.glossary import Entry, Glossary
from steerseg.words.learning import Lexicon
from tests.support.refinement_driver import Driver
from tests.support.refinement_world import example, make_world, save_preset

LEXICON = Lexicon(
    nouns={"fruit": ("apple", "kiwi", "lemon", "pear"), "animal": ("cat", "dog", "horse", "owl")}
)
NAMES = ("apple", "kiwi", "lemon", "pear", "apple", "kiwi")

Trials = Sequence[tuple[CorrectionExample, SoftPromptsRef]]

pytestmark = pytest.mark.usefixtures("one_thread")


def correction(number: int, expression: str, overlap: float, **changes: Any) -> CorrectionExample:
    """A correction on a video of its own."""
    masks = np.ones((2, 4, 4), dtype=bool)
    return example(number, masks, expression=expression, overlap=overlap, **changes)


def lesson(
    folder: Path,
    count: int,
    gain: float,
    *,
    known: Path | None = None,
    film: Callable[[int], str] = "film{}.mp4".format,
) -> WordsJudgement:
    """Learn from so many corrections, each on a video of its own unless a film is named, whose trials gain the same."""
    examples = [correction(number, "the blick", 0.1, group=film(number)) for number in range(count)]
    names = {one.key: NamedObject({NAMES[index]: 0.8}, {}) for index, one in enumerate(examples)}

    def attempt(trials: Trials) -> dict[str, tuple[float, float]]:
        return {one.key: (0.5 + gain, 0.5) for one, _ in trials}

    lessons = WordLessons(folder, known, LEXICON, RefinementRecipe())
    return lessons.learn(examples, lambda one: names[one.key], attempt)


def test_words_that_gain_are_used(tmp_path: Path) -> None:
    judged = lesson(tmp_path, 5, +0.3)
    assert judged.accepted
    (entry,) = judged.glossary.entries
    assert (entry.term, entry.meaning, entry.corrections) == ("blick", "fruit", 5)
    assert judged.reason.startswith("“blick” means “fruit” (from 5 corrections): better on 5 videos")


def test_words_that_do_not_gain_are_kept_back(tmp_path: Path) -> None:
    judged = lesson(tmp_path, 5, -0.1)
    assert not judged.accepted
    assert "not used: the gain is below 0.5 points" in judged.reason


def test_a_word_that_many_videos_teach_needs_no_certain_gain(tmp_path: Path) -> None:
    judged = lesson(tmp_path, 6, 0.0)
    assert judged.accepted
    assert "used, since 6 videos teach it and its trial shows no loss" in judged.reason


def test_a_word_that_many_videos_teach_is_not_used_where_it_loses(tmp_path: Path) -> None:
    judged = lesson(tmp_path, 6, -0.1)
    assert not judged.accepted
    assert "not used: worse on 6 videos" in judged.reason


def test_a_word_from_parts_of_one_film_is_a_word_from_one_video(tmp_path: Path) -> None:
    assert lesson(tmp_path / "one", 6, +0.3, film=lambda _: "film.mp4").changed == (), (
        "an entry needs two videos"
    )
    two = lesson(tmp_path / "two", 6, +0.3, film=lambda number: f"film{number % 2}.mp4")
    assert not two.accepted
    assert "too few videos use it" in two.reason
    three = lesson(tmp_path / "three", 6, 0.0, film=lambda number: f"film{number % 3}.mp4")
    assert not three.accepted, "three videos teach it, and not six"
    assert "3 videos by cross-validation" in three.reason


def test_a_trial_leaves_all_parts_of_a_film_out(tmp_path: Path) -> None:
    """Two films teach a word, so that without one of them nobody teaches it."""
    examples = [correction(number, "the blick", 0.1, group=f"film{number % 2}.mp4") for number in range(6)]
    lessons = WordLessons(tmp_path, None, LEXICON, RefinementRecipe())
    tried: list[SoftPromptsRef] = []

    def attempt(trials: Trials) -> dict[str, tuple[float, float]]:
        tried.extend(version for _, version in trials)
        return {one.key: (0.8, 0.5) for one, _ in trials}

    lessons.learn(examples, lambda one: NamedObject({NAMES[one.correction]: 0.8}, {}), attempt)
    assert len(tried) == 6
    assert not any(Glossary.load(version.folder) for version in tried)


def test_each_word_is_judged_by_the_videos_that_use_it(tmp_path: Path) -> None:
    examples = [correction(number, "the blick", 0.1) for number in range(4)]
    examples += [correction(number, "something moving", 0.1) for number in range(4, 7)]
    names = {one.key: NamedObject({"dog" if one.correction > 3 else NAMES[one.correction]: 0.8}, {})
             for one in examples}  # fmt: skip
    lessons = WordLessons(tmp_path, None, LEXICON, RefinementRecipe())
    judged = lessons.learn(
        examples,
        lambda one: names[one.key],
        lambda trials: {one.key: (0.8 if "blick" in one.expression else 0.5, 0.5) for one, _ in trials},
    )
    assert [entry.term for entry in judged.changed] == ["blick", "something moving"]
    assert [entry.term for entry in judged.glossary.entries] == ["blick"]
    assert "“something moving” means “dog” (from 3 corrections): not used" in judged.reason


def test_two_corrections_propose_a_word_that_a_person_may_promote(tmp_path: Path) -> None:
    judged = lesson(tmp_path, 2, +0.3)
    assert not judged.accepted
    assert judged.changed
    assert "a person may write it on the page Words" in judged.reason


def test_what_is_known_already_is_not_tried_again(tmp_path: Path) -> None:
    known = tmp_path / "champion"
    known.mkdir()
    (known / "glossary.json").write_bytes(
        Glossary(entries=(Entry(term="blick", meaning="fruit", origin="edited"),)).to_bytes()
    )
    judged = WordLessons(tmp_path / "again", known, LEXICON, RefinementRecipe()).learn(
        [correction(number, "the blick", 0.1) for number in range(4)],
        lambda one: NamedObject({"dog": 0.9}, {}),
        _never,
    )
    assert judged.reason == ""
    assert judged.glossary.entries[0].meaning == "fruit"


def _never(trials: Trials) -> dict[str, tuple[float, float]]:
    raise AssertionError("nothing is to be tried")


def test_objects_are_named_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(one: CorrectionExample) -> NamedObject:
        asked.append(one.key)
        return NamedObject({"apple": 0.9}, {})

    examples = [correction(number, "the zib", 0.9) for number in range(3)]
    for _ in range(2):  # the second time as after a kill
        WordLessons(tmp_path, None, LEXICON, RefinementRecipe()).learn(examples, ask, _never)
    assert asked == [one.key for one in examples]


# --- in a refinement


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_preset(tmp_path_factory.mktemp("tiny") / "preset", steps=2)


@pytest.fixture(scope="module")
def steerseg(preset: Path) -> SteerSeg:
    return SteerSeg.from_pretrained(preset, device="cpu")


@pytest.fixture
def driver(tmp_path: Path, preset: Path, steerseg: SteerSeg) -> Driver:
    return Driver(make_world(tmp_path / "world", preset), steerseg)


def answering(
    driver: Driver, *, words_gain: float, training_gain: float
) -> Callable[[ModelRequest], ModelAnswer]:
    """Answers of the models, but with names of animals, and with gains of words and of training as given."""

    def ask(request: ModelRequest) -> ModelAnswer:
        answer = driver.ask(request)
        if isinstance(request, NameRequest):
            return NamedObject({("cat", "dog", "horse", "owl")[request.example.correction % 4]: 0.9}, {})
        if isinstance(request, TrialRequest):
            gain = words_gain if "words-" in request.candidate.folder.name else training_gain
            return TrialResult(candidate=0.6 + gain, champion=0.6)
        return answer

    return ask


def test_words_come_first_and_soft_prompts_later(driver: Driver, preset: Path) -> None:
    ask = answering(driver, words_gain=0.3, training_gain=0.2)
    ended = driver.run(driver.refinements.request(1, "test"), ask=ask, lexicon=LEXICON)
    assert ended.state is RefinementState.PROMOTED, ended.reason
    champion = driver.line.champion(1)
    assert champion is not None
    (entry,) = driver.line.glossary(champion).entries
    assert entry.meaning == "animal"
    assert "the next refinement trains on what they leave over" in ended.reason
    assert champion.data == (), "no soft prompts were trained on corrections yet"
    loaded = SoftPrompts.load(driver.line.ref(champion).folder)
    own = SoftPrompts.load(preset / "soft_prompts")
    assert torch.equal(loaded.frame, own.frame), "the soft prompts are those of before"
    assert loaded.digest == champion.digest


def test_a_trained_version_carries_its_words(driver: Driver, tmp_path: Path) -> None:
    ask = answering(driver, words_gain=0.3, training_gain=0.2)
    for _ in range(2):
        ended = driver.run(driver.refinements.request(1, "test"), ask=ask, lexicon=LEXICON)
        assert ended.state is RefinementState.PROMOTED, ended.reason
    version = driver.line.champion(1)
    assert version is not None
    assert version.curve
    assert driver.line.glossary(version).entries[0].meaning == "animal"
    archive = tmp_path / "version.zip"
    archive.write_bytes(driver.line.export(1, version.name))
    imported = driver.line.import_(1, archive)
    assert driver.line.glossary(imported) == driver.line.glossary(version)
    assert imported.digest == version.digest


def test_words_that_lose_leave_everything_as_it_was(driver: Driver) -> None:
    ask = answering(driver, words_gain=-0.2, training_gain=-0.1)
    ended = driver.run(driver.refinements.request(1, "test"), ask=ask, lexicon=LEXICON)
    assert ended.state is RefinementState.KEPT_BACK
    (version,) = driver.versions.versions(1)
    assert version.status is PromptStatus.CANDIDATE
    assert not driver.line.glossary(version)
    assert "not used" in ended.reason


def test_a_person_edits_words(driver: Driver) -> None:
    edited = Glossary(entries=(Entry(term="blick", meaning="fruit", origin="edited"),))
    version = driver.line.edit_glossary(1, edited, by="a person")
    champion = driver.line.champion(1)
    assert version is not None
    assert champion is not None
    assert (champion.name, champion.origin) == (version.name, "edited")
    assert driver.line.glossary(champion) == edited
    assert driver.versions.roll_back(1) == "preset"
    assert not driver.line.glossary(driver.line.champion(1))


def test_what_was_learned_and_a_person_confirms_stays_the_persons(driver: Driver) -> None:
    """Also through a training, though the models have loaded prompts of the same digest before."""
    ask = answering(driver, words_gain=0.3, training_gain=0.2)
    driver.run(driver.refinements.request(1, "test"), ask=ask, lexicon=LEXICON)
    champion = driver.line.champion(1)
    (learned,) = driver.line.glossary(champion).entries
    assert (learned.origin, learned.corrections > 0) == ("learned", True)
    confirmed = Entry(term=learned.term, meaning=learned.meaning, origin="edited")
    driver.line.edit_glossary(1, Glossary(entries=(confirmed,)), by="a person")

    ended = driver.run(driver.refinements.request(1, "test"), ask=ask, lexicon=LEXICON)
    assert ended.state is RefinementState.PROMOTED, ended.reason
    champion = driver.line.champion(1)
    assert champion is not None
    assert champion.curve, "soft prompts were trained"
    assert driver.line.glossary(champion).entries == (confirmed,)
    driver.line.check(champion)
