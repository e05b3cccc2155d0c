"""Each implementation of a worker keeps to what a worker is."""

from __future__ import annotations

import os

import pytest

from ml_backend.models.workers import ProcessWorker
from ml_backend.models.workers.local import prepare_environment
from tests.support.inline_worker import InlineWorker
from tests.support.worker_suite import WorkerSuite

pytestmark = pytest.mark.timeout(120)


class TestProcessWorker(WorkerSuite):
    make = ProcessWorker


class TestInlineWorker(WorkerSuite):
    """What other tests use in place of a process keeps to it too."""

    make = InlineWorker


@pytest.mark.parametrize(
    "chosen", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"]
)
def test_a_users_allocator_stays(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
    monkeypatch.setattr(
        os, "environ", {name: value for name, value in os.environ.items() if name not in known}
    )
    os.environ[chosen] = "max_split_size_mb:64"
    prepare_environment()
    assert {name: os.environ[name] for name in known if name in os.environ} == {
        chosen: "max_split_size_mb:64"
    }


def test_segments_of_a_gpus_memory_grow_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    prepare_environment()
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
