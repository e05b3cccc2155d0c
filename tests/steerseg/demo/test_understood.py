import re
from pathlib import Path

from steerseg.demo import catalogue
from steerseg.demo.language import vocabulary
from steerseg.demo.understood import INTRODUCTION, page

PAGE = Path(__file__).parents[3] / "docs" / "what-the-demo-understands.md"


def test_the_page_is_that_of_the_catalogue_and_the_wordings() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run `python -m steerseg.demo.understood > docs/what-the-demo-understands.md`"
    )


def test_every_object_group_and_use_is_on_the_page() -> None:
    text = page()
    for entry in catalogue.entries():
        assert re.search(rf"[|,] {re.escape(entry.name)}\b", text), entry.name
    for trait in catalogue.TRAITS.values():
        assert f"`{trait.phrases[0]}`" in text
    assert "{" not in text


def test_the_examples_use_no_other_words() -> None:
    known = set(vocabulary())
    examples = re.findall(r"^\|[^|]*\|(.*)\|$", INTRODUCTION, flags=re.MULTILINE)
    texts = re.findall(r"`([^`]+)`", " ".join(examples))
    assert len(texts) > 12
    for text in texts:
        assert set(text.split()) <= known, text
