from dataclasses import replace
from pathlib import Path

import pytest

from ml_backend.models.messages import ProposeRequest
from ml_backend.models.reporter import SilentReporter
from ml_backend.predictions.messages import Guidance, describe_proposal
from ml_backend.proposals import StoredProposal
from steerseg.presets import BUILT_IN, load_preset
from tests.support.proposal_targets import propose

HINT = "It knows red balls."


def proposal(expression: str) -> StoredProposal:
    return propose(ProposeRequest(Path("video"), expression, None, alternatives=3), SilentReporter())


def test_a_clear_match_needs_no_advice() -> None:
    text = describe_proposal(proposal("the ball"), guidance=Guidance(HINT))
    assert text == "Tracked “the ball” on 10 of 12 frames (score 0.80); not visible on 11–12."
    other = describe_proposal(proposal("the ball"), 1, Guidance(HINT, unsure_below=0.9))
    assert other == "Candidate #2 of 2. Tracked “the ball” on 12 of 12 frames (score 0.50)."


def test_where_nothing_is_found_the_text_says_what_to_try() -> None:
    text = describe_proposal(proposal("nothing here"), guidance=Guidance(HINT))
    assert text.startswith("Nothing in the video matches “nothing here”.")
    assert "read as “red, moving right”" in text
    assert "name the object" in text
    assert text.endswith(HINT)
    plain = describe_proposal(replace(proposal("nothing here"), attributes=()))
    assert "read as" not in plain
    assert plain.endswith("how it moves.")


def test_a_low_score_is_named_with_what_to_try() -> None:
    text = describe_proposal(proposal("unlike anything"), guidance=Guidance(HINT))
    assert "(score -0.10)" in text
    assert "Unsure" in text
    assert "0.20 or more" in text
    assert text.endswith(HINT)
    assert "Unsure" not in describe_proposal(
        proposal("unlike anything"), guidance=Guidance(HINT, unsure_below=-0.5)
    )


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_only_the_demo_has_a_hint_and_it_leads_to_its_page(name: str) -> None:
    guidance = Guidance.of(load_preset(BUILT_IN[name]))
    if name != "demo":
        assert guidance == Guidance()
        return
    (page,) = [word for word in guidance.hint.split() if word.endswith(".md")]
    assert (Path(__file__).parents[3] / page).is_file()
