"""Triton kernels without a GPU, in a process of their own: how they run is settled when Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def numbers_printed(code: str) -> list[float]:
    """The numbers that Python code prints while Triton interprets its kernels; skips the test without Triton."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [float(line) for line in run.stdout.split()]
