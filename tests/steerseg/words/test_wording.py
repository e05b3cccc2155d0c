import pytest

from steerseg.config import PUBLISHED, PipelineConfig
from steerseg.words.wording import mend_spelling, plain_wording

WORDS = (
    "the",
    "a",
    "red",
    "dog",
    "umbrella",
    "yellow",
    "banana",
    "bicycle",
    "that",
    "is",
    "cat",
    "cap",
    "penguin",
)


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("pls track the dog", "the dog"),
        ("where's that car going?", "the car"),
        ("where is the violin that starts moving", "the violin that starts moving"),
        ("can u find me the red car plz", "the red car"),
        ("where are those two cats heading", "the two cats"),
        ("hey, could you please highlight the tree on the left", "the tree on the left"),
        ("show me where that bike goes", "the bike"),
        ("watch the bird", "the bird"),
        ("i need to track all the dogs please", "all the dogs"),
        ("where is the dog going left", "the dog going left"),
        ("get the ball for me", "the ball"),
        ("which one is spinning", "the one that is spinning"),
        ("I need a mask of the dolphin in this video", "the dolphin"),
        # Nothing stands around the object.
        ("the dog that is going left", "the dog that is going left"),
        ("the watch", "the watch"),
        ("mark on the wall", "mark on the wall"),
        ("something you could call a friend with", "something you could call a friend with"),
        ("what tells you how late it is", "what tells you how late it is"),
        ("the animal that is staying where it is", "the animal that is staying where it is"),
        ("The Dog.", "The Dog."),
        ("track", "track"),
        ("das rote auto", "das rote auto"),
    ],
)
def test_what_stands_around_the_object_is_left_out(typed: str, plain: str) -> None:
    assert plain_wording(typed) == plain
    assert plain_wording(plain) == plain


@pytest.mark.parametrize(
    ("typed", "mended"),
    [
        ("the umberlla", "the umbrella"),
        ("teh dgo", "the dog"),
        ("yelow bannana", "yellow banana"),
        ("the bicycle thats red", "the bicycle that is red"),
        ("the pengvin", "the penguin"),
        ("the cav", "the cav"),  # near to two known words
        ("the blick", "the blick"),
        ("no idea", "no idea"),
        ("собака", "собака"),
    ],
)
def test_slips_of_the_pen_are_mended(typed: str, mended: str) -> None:
    assert mend_spelling(typed, WORDS) == mended


def test_without_known_words_nothing_is_mended() -> None:
    assert mend_spelling("teh umberlla", ()) == "teh umberlla"


def test_published_settings_read_what_was_typed_and_refuse_nothing() -> None:
    assert (PUBLISHED.pipeline.wording, PUBLISHED.pipeline.presence) == ("typed", "off")
    assert (PipelineConfig().wording, PipelineConfig().presence) == ("plain", "refuse")
