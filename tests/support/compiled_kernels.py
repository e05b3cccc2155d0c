"""Triton kernels compiled for a GPU that is not there, for what they would take of its shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_PREAMBLE = """
import json, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

class Absent:
    '''Stands for the driver of a GPU that is not there: kernels are compiled for it, and never launched.'''
    def get_current_target(self): return GPUTarget("cuda", int(sys.argv[1]), 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

driver.set_active(Absent())
taken = {}
run = JITFunction.run
def compiled(self, *args, grid, warmup=False, **kwargs):
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    taken[self.__name__] = max(taken.get(self.__name__, 0), kernel.metadata.shared)
JITFunction.run = compiled
"""


def shared_memory(code: str, capability: int) -> dict[str, int]:
    """Bytes of shared memory that a program of each kernel takes at most, by the kernel's name.

    Args:
        code: Python that calls kernels on tensors of the CPU; their results are arbitrary numbers.
        capability: Such as 86.
    """
    pytest.importorskip("triton")
    program = f"{_PREAMBLE}\n{code}\nprint(json.dumps(taken))"
    run = subprocess.run(
        [sys.executable, "-c", program, str(capability)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    taken: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return taken
