"""What tests need of the machine."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

IN_CI = bool(os.environ.get("CI"))


def missing(what: str) -> NoReturn:
    """Skip on a developer's machine, fail in continuous integration."""
    if IN_CI:
        pytest.fail(f"{what} (CI is set, so this is an error)")
    pytest.skip(what)
