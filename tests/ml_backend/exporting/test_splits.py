"""Splits are by video, and stable."""

from __future__ import annotations

import pytest

from ml_backend.corrections.grouping import group_of
from ml_backend.exporting.splits import Split
from steerseg.errors import ConfigError


def test_a_video_keeps_its_part() -> None:
    split = Split.parse("0.8/0.1/0.1")
    parts = [split.part_of(f"video {number}") for number in range(3000)]
    assert parts == [split.part_of(f"video {number}") for number in range(3000)]
    shares = [parts.count(part) / len(parts) for part in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    # What is held out stays so where more is held out.
    wider = Split.parse("0.5/0.4/0.1")
    assert all(wider.part_of(f"video {n}") != "train" for n, part in enumerate(parts) if part != "train")


def test_a_video_is_known_by_its_source_else_by_its_media() -> None:
    parts = [{"source": "film.mp4", "part": f"part {number}"} for number in (1, 2)]
    assert {group_of(data, f"digest {number}") for number, data in enumerate(parts)} == {"film.mp4"}
    assert {group_of(data, "digest") for data in ({}, {"source": ""}, {"source": 7})} == {"digest"}


def test_a_part_that_is_not_wanted_is_not_there() -> None:
    assert Split.parse("0.8/0.2").parts == ("train", "val")
    assert Split.parse("0.8/0/0.2").parts == ("train", "test")
    assert {Split.parse("0.5/0/0.5").part_of(str(n)) for n in range(50)} == {"train", "test"}


@pytest.mark.parametrize(
    "text", ["0.8", "0.8/0.1", "1.2/-0.2", "0/1", "a/b", "0.25/0.25/0.25/0.25", "", "nan/1"]
)
def test_what_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no split"):
        Split.parse(text)
