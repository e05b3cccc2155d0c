"""What the model process does about what it did not expect."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ml_backend.models.handler import SegmenterHandler
from ml_backend.models.process import ProcessLostError
from ml_backend.models.reporter import SilentReporter
from steerseg.errors import VideoError
from steerseg.video import VideoLimits


def handler(monkeypatch: pytest.MonkeyPatch, device: str, error: Exception) -> SegmenterHandler:
    """One that fails at whatever it is asked."""

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(SegmenterHandler, "_answer", fail)
    tracker: Any = SimpleNamespace(device=torch.device(device))
    return SegmenterHandler(tracker, lambda video: tracker, VideoLimits(), correction="frame")


@pytest.mark.parametrize("lost", [True, False])
def test_a_gpu_that_answers_no_more_ends_its_process(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: torch.device) -> None:
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    request: Any = None
    expected = ProcessLostError if lost else ZeroDivisionError
    with pytest.raises(expected):
        handler(monkeypatch, "cuda", ZeroDivisionError())(request, SilentReporter())
    with pytest.raises(VideoError):  # said by us: nobody asks the GPU
        handler(monkeypatch, "cuda", VideoError("empty"))(request, SilentReporter())
    with pytest.raises(ZeroDivisionError):
        handler(monkeypatch, "cpu", ZeroDivisionError())(request, SilentReporter())
