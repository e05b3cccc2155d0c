"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.backend import Backend, running_backend
from tests.contract.conversation import Answers, hold
from tests.contract.golden import Golden
from tests.contract.steps import STEPS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; see update.py")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(updating=request.config.getoption("--update-golden", default=False))


@pytest.fixture(scope="session")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backend, Answers]]:
    """A backend after the whole conversation, and its answers by the names of the steps."""
    with running_backend(tmp_path_factory.mktemp("conversation")) as backend:
        yield backend, hold(backend, STEPS)
