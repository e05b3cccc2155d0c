import pytest

from ml_backend.language.commands import Action, Command, FrameRange, instance_title, is_command, read_command
from ml_backend.language.expressions import typed_expressions
from steerseg.errors import ExpressionError

OBJECTS = ("object 1", "object 2", "object 3", "object 4")
NUMBERS = ("1", "2", "3", "4")
CLASSES = ("dog", "cat")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("delete object 2", Command(Action.DELETE, 1)),
        ("Remove  Object 2 from frame 20", Command(Action.DELETE, 1, None, FrameRange(19))),
        ("delete object 2 to frame 20", Command(Action.DELETE, 1, None, FrameRange(0, 19))),
        ("delete object 2 on page 5", Command(Action.DELETE, 1, None, FrameRange(4, 4))),
        ("delete object 2 on frames 5 to 9", Command(Action.DELETE, 1, None, FrameRange(4, 8))),
        ("delete object 2 from 5 to 9", Command(Action.DELETE, 1, None, FrameRange(4, 8))),
        ("delete object 2 on frames 5–9", Command(Action.DELETE, 1, None, FrameRange(4, 8))),
        ("object 2 = object 3 from page 20", Command(Action.REPLACE, 1, 2, FrameRange(19))),
        ("object 2=object 3", Command(Action.REPLACE, 1, 2)),
        ("merge object 3 into object 2 from frame 4", Command(Action.MERGE, 1, 2, FrameRange(3))),
        ("swap object 1 and object 2 from 7", Command(Action.SWAP, 0, 1, FrameRange(6))),
        ("split object 1 at frame 7", Command(Action.SPLIT, 0, None, FrameRange(6))),
        ("split object 1 at 7 into object 4", Command(Action.SPLIT, 0, 3, FrameRange(6))),
    ],
)
def test_commands_are_read(text: str, expected: Command) -> None:
    assert read_command(text, OBJECTS) == expected
    assert read_command(text, NUMBERS) == expected, "objects that are numbered are named alike"


@pytest.mark.parametrize(
    "text",
    [
        "the globe",
        "delete key on the keyboard",
        "the sign that says 2 = 2",
        "remove the cap from the bottle",
        "merge lane into traffic",
        "object 2: the cat",
        "the split log at 7 o'clock",
    ],
)
def test_expressions_are_no_commands(text: str) -> None:
    assert read_command(text, OBJECTS) is None
    assert list(typed_expressions([text], OBJECTS)) == [text.removeprefix("object 2: ")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("delete object 7", "there is no “object 7”; the objects are object 1, object 2"),
        ("object 1 = the dog", "there is no “the dog”"),
        ("merge object 1 into object 1", "names one object twice"),
        ("delete object 2 from frame 9 to 3", "the lower number first"),
        ("delete object 2 from frame 0", "counted from 1"),
        ("delete object 2 from frame 9 and so on", "names no frames"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        read_command(text, OBJECTS)
    assert is_command(text, OBJECTS)
    assert not list(typed_expressions([text], OBJECTS)), "it is no expression either"


def test_labels_name_objects_in_commands() -> None:
    assert read_command("delete dog", CLASSES) == Command(Action.DELETE, 0)
    assert read_command("dog = cat from 3", CLASSES) == Command(Action.REPLACE, 0, 1, FrameRange(2))
    assert instance_title(0, CLASSES) == "dog"
    assert instance_title(1, NUMBERS) == "object 2"


def test_frames_beyond_the_video_are_refused() -> None:
    assert FrameRange(3).indices(6) == range(3, 6)
    assert FrameRange(3, 4).indices(6) == range(3, 5)
    for beyond in (FrameRange(6), FrameRange(0, 6)):
        with pytest.raises(ExpressionError, match="there is no frame 7; the last one is frame 6"):
            beyond.indices(6)
