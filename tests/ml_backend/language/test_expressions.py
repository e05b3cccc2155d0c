import pytest

from ml_backend.language.expressions import TypedText, read_typed_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the  dog ", TypedText("the dog")),
        ("#2", TypedText(pick=2)),
        ("Object 2: the dog", TypedText("the dog", label="object 2")),
        ("object 2: #3", TypedText(label="object 2", pick=3)),
        ("the car: red", TypedText("the car: red")),
        ("#two", TypedText("#two")),
    ],
)
def test_typed_texts_are_read(text: str, expected: TypedText) -> None:
    assert read_typed_text(text, ["object 1", "object 2"]) == expected
