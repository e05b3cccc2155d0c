import re
from dataclasses import replace
from pathlib import Path

import pytest

from ml_backend.models.messages import ProposeRequest
from ml_backend.models.reporter import SilentReporter
from ml_backend.predictions.messages import (
    Guidance,
    describe_absence,
    describe_answer,
    describe_instances,
    describe_proposal,
    describe_refusal,
)
from ml_backend.proposals import StoredProposal
from steerseg.demo import understood
from steerseg.presets import BUILT_IN, load_preset
from steerseg.words.wording import mend_spelling, plain_wording
from tests.support.proposal_targets import propose
from tools.demo_models.lexicon import demo_lexicon

HINT = "It knows red balls."


def proposal(expression: str) -> StoredProposal:
    return propose(ProposeRequest(Path("video"), expression, None, alternatives=3), SilentReporter())


def test_a_clear_match_needs_no_advice() -> None:
    text = describe_proposal(proposal("the ball"), guidance=Guidance(HINT))
    assert text == "Tracked “the ball” on 10 of 12 frames (score 0.80); not visible on 11–12."
    other = describe_proposal(proposal("the ball"), 1, Guidance(HINT, unsure_below=0.9))
    assert other == "Candidate #2 of 2. Tracked “the ball” on 12 of 12 frames (score 0.50)."


@pytest.mark.parametrize(
    ("confidence", "shown"), [(0.934, "0.93"), (0.5, "0.50"), (0.499, "0.49"), (0.02, "0.02")]
)
def test_a_confidence_takes_the_place_of_the_score_of_the_best(confidence: float, shown: str) -> None:
    sure = replace(proposal("the ball"), confidence=confidence, presence=0.97)
    text = describe_proposal(sure, guidance=Guidance(HINT, unsure_below=0.9))
    assert f"frames (confidence {shown}); not visible" in text
    unsure = confidence < 0.5
    assert ("Unsure: it is more likely wrong than right." in text) is unsure
    assert text.endswith(HINT) is unsure
    other = describe_proposal(sure, 1, Guidance(HINT))
    assert other.endswith("frames (score 0.50).")
    assert sure.certainty() == confidence
    assert sure.certainty(1) == min(0.5, confidence), "no other is surer than the best"
    assert proposal("unlike anything").certainty() == 0.0


def test_where_nothing_is_found_the_text_says_what_to_try() -> None:
    text = describe_proposal(proposal("nothing here"), guidance=Guidance(HINT))
    assert text.startswith("Nothing in the video matches “nothing here”.")
    assert "Understood as “red, moving right”." in text
    assert "name the object" in text
    assert text.endswith(HINT)
    plain = describe_proposal(replace(proposal("nothing here"), attributes=()))
    assert "Understood" not in plain
    assert plain.endswith("how it moves.")


def test_a_note_stands_in_every_status() -> None:
    note = "Candidates come from point prompts: SAM 3 is not there."
    noted = replace(proposal("the ball"), note=note)
    assert note in describe_proposal(noted)
    assert note in describe_instances(noted, [0, 1], ["ball 1", "ball 2"], 2)
    assert note in describe_refusal(replace(noted, refused=True), Guidance())
    nothing = replace(proposal("nothing here"), note=note)
    assert note in describe_proposal(nothing)
    assert note in describe_absence(nothing, Guidance())


def test_a_low_score_is_named_with_what_to_try() -> None:
    text = describe_proposal(proposal("unlike anything"), guidance=Guidance(HINT))
    assert "(score -0.10)" in text
    assert "Unsure" in text
    assert "0.20 or more" in text
    assert text.endswith(HINT)
    assert "Unsure" not in describe_proposal(
        proposal("unlike anything"), guidance=Guidance(HINT, unsure_below=-0.5)
    )


def test_the_decisive_sentences_come_first() -> None:
    gone = "This replaces object 1 (the cat)."
    one = replace(proposal("unlike anything"), attributes=("red",))
    text = describe_answer(one, 0, Guidance(HINT), "object 1", gone)
    order = [
        "Object 1 is “unlike anything”",
        "Unsure",
        gone,
        "Other candidates: #2",
        "Understood as “red”.",
        HINT,
    ]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    text = describe_instances(one, [0], ["object 1"], None, Guidance(HINT), gone)
    order = ["Tracked 1 object", gone, "Other candidates: #2", "Understood as “red”."]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    text = describe_answer(proposal("nothing here"), 0, Guidance(HINT))
    assert text.index("The closest match was") < text.index("Understood as") < text.index(HINT)


def test_a_rounded_score_agrees_with_the_sentence() -> None:
    one = proposal("the ball")
    near = replace(one, tracklets=(replace(one.tracklets[0], score=0.4472), *one.tracklets[1:]))
    text = describe_proposal(near, guidance=Guidance(unsure_below=0.45))
    assert "(score 0.44)" in text
    assert "Unsure" in text
    assert "(score 0.45)" in describe_proposal(near, guidance=Guidance(unsure_below=0.4))


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_only_the_demo_has_a_hint_and_a_page_of_words(name: str) -> None:
    preset = load_preset(BUILT_IN[name])
    guidance = Guidance.of(preset, "http://backend/understands")
    if name != "demo":
        assert guidance == Guidance(reads_expressions=preset.lvlm is not None)
        return
    assert guidance.hint
    text = describe_proposal(proposal("the ball"), guidance=guidance)
    assert "know" not in text
    text = describe_proposal(proposal("the wombat that levitates beside the ball"), guidance=guidance)
    assert "I do not know “wombat” and “levitates”. My words: http://backend/understands" in text
    read = replace(proposal("the wombat"), read_as="the horse")
    assert "I do not know" not in describe_proposal(read, guidance=guidance)


def test_all_that_the_demo_was_taught_is_known() -> None:
    lexicon = Guidance.of(load_preset(BUILT_IN["demo"])).lexicon
    assert lexicon == demo_lexicon(), "run `python -m tools.demo_models.lexicon`"
    examples = [text for text in re.findall(r"`([^`]+)`", understood.page()) if text != "demo"]
    assert len(examples) > 300
    read = [mend_spelling(plain_wording(text), lexicon.words) for text in examples if "…" not in text]
    assert not [text for text in read if lexicon.unknown(text)]
