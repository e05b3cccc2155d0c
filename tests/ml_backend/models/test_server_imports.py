"""The server and the contract with its model process are there without the libraries of models and of plurals."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "ml_backend.web.app",
        "ml_backend.web.assemble",
        "ml_backend.service",
        "ml_backend.models.messages",
        "ml_backend.models.workers",
        "ml_backend.models.fleet.fleet",
    ],
)
def test_the_server_loads_no_torch(module: str) -> None:
    slow = "{'torch', 'transformers', 'sam2', 'ray', 'inflect'}"
    script = f"import sys, {module}; print(*sorted({slow} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []
