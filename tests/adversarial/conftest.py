"""Options of the campaigns: how long each goes on."""

from __future__ import annotations

import pytest

from tests.support.backend import make_backend

__all__ = ["make_backend"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; name a file or folder below ``tests/adversarial`` on the command line to use them."""
    parser.addoption("--campaign-kills", type=int, default=3, help="how often the server is killed")
