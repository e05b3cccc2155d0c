"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.contract.backend import Backend, running_backend
from tests.contract.golden import Golden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; see update.py")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(updating=request.config.getoption("--update-golden", default=False))


@pytest.fixture
def make_backend(tmp_path: Path) -> Iterator[Callable[..., Backend]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_backend(tmp_path, **settings))


@pytest.fixture
def backend(make_backend: Callable[..., Any]) -> Backend:
    made: Backend = make_backend()
    return made
