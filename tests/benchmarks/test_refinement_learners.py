"""Vectors that stand in for text: read in place of their mark alone, taught by answers, and compared in tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.refinement.learners_report import (
    BOUND,
    GLOSSARY,
    INVERSION,
    MADE,
    MEAN,
    PROMPT,
    TYPED,
    Comparison,
    Learned,
    Measured,
    report,
    share,
)
from benchmarks.refinement.stand_ins import (
    PROMPT_MARK,
    WORD_MARK,
    Schedule,
    StandIn,
    TaughtAnswer,
    VideoPast,
    answer_loss,
    mark_term,
    mean_embedding,
    standing_in,
    teach,
    tokens_of,
)
from benchmarks.refinement.teacher import shared_term
from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.presets import open_preset
from tests.support.tiny_lvlms import save_tiny_lvlm

pytestmark = pytest.mark.usefixtures("one_thread")

ANSWERS = ('{"attributes": ["red"]}', '{"attributes": ["dog", "on the left"]}')


@pytest.fixture(scope="module", params=["demo", "qwen3_vl"])
def lvlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LVLM:
    """The demo's model, and a random one of a family whose visual tokens enter further layers."""
    folder = open_preset("demo").lvlm
    if request.param != "demo":
        folder = str(tmp_path_factory.mktemp("tiny"))
        save_tiny_lvlm(Path(folder), request.param)
    return LVLM.from_pretrained(folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def vision(lvlm: LVLM) -> VisionFeatures:
    size = lvlm.family.sizes(72, 108, video_tokens=12, frame_tokens=48).video
    pixels = torch.randint(0, 255, (4, 3, *size), generator=torch.Generator().manual_seed(0))
    return lvlm.encode_vision(pixels.to(torch.uint8), "video")


def _probabilities(lvlm: LVLM, vision: VisionFeatures, text: str) -> torch.Tensor:
    """Log-probabilities (V,) of the first token of an answer."""
    inputs = lvlm.chats.with_positions(lvlm.chats.inputs([lvlm.chats.write(text, vision)], vision))
    with torch.no_grad():
        return lvlm.model(**inputs, logits_to_keep=1).logits[0, -1].log_softmax(dim=-1)


def test_vectors_are_read_in_place_of_their_marks_alone(lvlm: LVLM, vision: VisionFeatures) -> None:
    text = f"the{WORD_MARK} on the left of the{WORD_MARK}"
    as_it_is, other = (_probabilities(lvlm, vision, one) for one in (text, "the dog"))
    ids = tokens_of(lvlm, WORD_MARK)
    own = StandIn(WORD_MARK, lvlm.embeddings.weight[ids].clone())
    with standing_in(lvlm, [own, StandIn.around(lvlm, PROMPT_MARK, lvlm.line_break)]):
        assert torch.allclose(_probabilities(lvlm, vision, text), as_it_is, atol=1e-5)
    with standing_in(lvlm, [replace(own, vectors=own.vectors.flip(0) + 1.0)]):
        assert not torch.allclose(_probabilities(lvlm, vision, text), as_it_is, atol=1e-2)
        assert torch.equal(_probabilities(lvlm, vision, "the dog"), other)
    assert torch.equal(_probabilities(lvlm, vision, text), as_it_is)


def test_the_embeddings_of_a_word_stand_for_the_word(lvlm: LVLM, vision: VisionFeatures) -> None:
    count = len(tokens_of(lvlm, WORD_MARK))
    word = next(one for one in ("blick", "dax", "wug", "qj") if len(tokens_of(lvlm, f" {one}")) == count)
    with standing_in(lvlm, [StandIn(WORD_MARK, lvlm.embeddings.weight[tokens_of(lvlm, f" {word}")])]):
        marked = _probabilities(lvlm, vision, mark_term(f"the {word.title()} on the left", word))
    assert torch.allclose(marked, _probabilities(lvlm, vision, f"the {word} on the left"), atol=1e-5)


def test_the_loss_is_that_of_whole_chats(lvlm: LVLM, vision: VisionFeatures) -> None:
    past = VideoPast.read(lvlm, vision)
    taught, expected = [], []
    for answer, weight in zip(ANSWERS, (1.0, 3.0), strict=True):
        taught.append(TaughtAnswer.write(lvlm, vision, past, "what?", answer, weight))
        chat = lvlm.chats.write("what?", vision)
        asked = lvlm.chats.inputs([chat], vision)["input_ids"].shape[1]
        inputs = lvlm.chats.with_positions(lvlm.chats.inputs([chat + answer], vision))
        with torch.no_grad():
            logits = lvlm.model(**inputs).logits[0, asked - 1 : -1]
        expected.append(torch.nn.functional.cross_entropy(logits, inputs["input_ids"][0, asked:]))
    loss = answer_loss(lvlm, taught)
    torch.testing.assert_close(loss, (expected[0] + 3 * expected[1]) / 4, rtol=1e-4, atol=1e-4)


def test_a_stand_in_learns_and_the_model_stays_as_it_is(lvlm: LVLM, vision: VisionFeatures) -> None:
    before = {name: part.clone() for name, part in lvlm.model.state_dict().items()}
    past = VideoPast.read(lvlm, vision)
    taught = [
        TaughtAnswer.write(lvlm, vision, past, f"the{WORD_MARK} on the left", answer) for answer in ANSWERS
    ]
    start = StandIn.around(lvlm, WORD_MARK, mean_embedding(lvlm, {"dog": 0.7, "red cat": 0.3}))
    learned, losses = teach(lvlm, start, taught, Schedule(steps=12, rate=0.1))
    assert losses[-1] < losses[0]
    assert learned.vectors.shape == start.vectors.shape
    assert not torch.equal(learned.vectors, start.vectors)
    assert all(torch.equal(before[name], part) for name, part in lvlm.model.state_dict().items())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("the blick on the left", "the# on the left"),
        ("Blicks that move", "# that move"),
        ("the blicker", "the blicker"),
        ("the dog behind a blick.", "the dog behind a#."),
    ],
)
def test_a_term_is_marked_as_a_whole_word(expression: str, expected: str) -> None:
    assert mark_term(expression, "blick", "#") == expected


def test_the_term_is_what_most_expressions_share() -> None:
    assert shared_term(["the red blick", "the blick on the left", "a blick that turns"]) == "blick"
    assert shared_term(["the red blick", "the dog that turns"]) == ""


def test_tables_compare_gains_and_shares_of_the_way_to_the_bound() -> None:
    learned = tuple(
        Learned(word=word, seed=1, size=8, learner=learner, term=word, seconds=seconds, bytes=3072)
        for word in ("blick", "dax")
        for learner, seconds in ((GLOSSARY, 0.0), (MADE, 0.0), (MEAN, 0.0), (INVERSION, 9.0), (PROMPT, 11.0))
    )
    after = {GLOSSARY: 0.5, MADE: 0.6, MEAN: 0.4, INVERSION: 0.7, PROMPT: 0.4}
    jf = {TYPED: 0.4, BOUND: 0.8} | {f"{learner}/1/8": value for learner, value in after.items()}
    measured = [Measured(word=word, task="t", ordinary=False, jf=jf) for word in ("blick", "dax")]
    ordinary = Measured(word="dax", task="o", ordinary=True, jf={TYPED: 0.9, f"{PROMPT}/1/8": 0.8})
    comparison = Comparison(learned=learned, measured=(*measured, ordinary))
    assert share(comparison, INVERSION, 8) == pytest.approx(0.75)
    text = report(comparison)
    assert "| inversion | +0.300 [+0.300, +0.300], 75% | 9.0 | 3072 |" in text
    assert "| “blick” | 0.400 | 0.500 | 0.600 | 0.400 | 0.700 | 0.400 | 0.800 |" in text
    assert "| 8 | -0.100 [-0.100, -0.100] |" in text
