"""The collector is off while a program loads, on again afterwards, and no longer walks what was loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from steerseg.runtime.startup import uncollected


@pytest.fixture(autouse=True)
def thaw() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_loading_is_left_alone_by_the_collector() -> None:
    before = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
        kept = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)


def test_a_failure_turns_it_on_again() -> None:
    with pytest.raises(RuntimeError), uncollected():
        raise RuntimeError
    assert gc.isenabled()


def test_who_has_it_off_keeps_it_off() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()
