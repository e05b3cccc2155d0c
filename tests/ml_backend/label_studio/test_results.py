from __future__ import annotations

from typing import Any

import pytest

from ml_backend.interactive.request import side_of
from ml_backend.label_studio.results import ResultItem


@pytest.mark.parametrize("content", [[], [{"a": 1}], {"frames": 1}, 7, True])
def test_a_name_that_is_no_text_names_nothing_and_stops_nothing(content: Any) -> None:
    item = {"from_name": content, "to_name": content}
    assert side_of([item], [None]) is None
    assert ResultItem(item).side == ResultItem(item).control == str(content)


def test_a_name_that_is_missing_is_none() -> None:
    assert ResultItem({}).side is None
    assert ResultItem({}).control is None
