"""Triton kernels without a GPU, in a process of their own: how they run is settled when Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

_NUMPY_FAULT = "only 0-dimensional arrays can be converted to Python scalars"


def fault_of_interpreter(errors: str, triton: str, numpy: str) -> str | None:
    """Why Triton's interpreter cannot run a loop, where that is what the errors say; ``None`` for any other failure.

    Before 3.7 it makes the bound of a loop a number by ``int`` of an array of one element. Numpy 2.5 refuses that.
    """
    if _NUMPY_FAULT in errors and Version(triton) < Version("3.7") and Version(numpy) >= Version("2.5"):
        return f"Triton {triton} cannot interpret loops with numpy {numpy}; Triton 3.7 can"
    return None


def numbers_printed(code: str) -> list[float]:
    """The numbers that Python code prints while Triton interprets its kernels.

    Skips the test without Triton, and where its interpreter has a known fault.
    """
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode and (reason := fault_of_interpreter(run.stderr, version("triton"), version("numpy"))):
        pytest.skip(reason)
    assert run.returncode == 0, run.stderr
    return [float(line) for line in run.stdout.split()]
