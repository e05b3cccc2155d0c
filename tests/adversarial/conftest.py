"""Options of the campaigns: how long each goes on."""

from __future__ import annotations

import pytest

from tests.support.backend import backend, make_backend

__all__ = ["backend", "make_backend"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; name a file or folder below ``tests/adversarial`` on the command line to use them."""
    parser.addoption("--campaign-examples", type=int, default=2000, help="how many requests are made up")
    parser.addoption("--campaign-kills", type=int, default=0, help="how often the server is killed")
    parser.addoption("--campaign-clock", action="store_true", help="whether clocks jump, by libfaketime")
