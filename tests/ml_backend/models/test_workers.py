"""Each implementation of a worker keeps to what a worker is."""

from __future__ import annotations

import pytest

from ml_backend.models.workers import ProcessWorker
from tests.support.inline_worker import InlineWorker
from tests.support.worker_suite import WorkerSuite

pytestmark = pytest.mark.timeout(120)


class TestProcessWorker(WorkerSuite):
    make = ProcessWorker


class TestInlineWorker(WorkerSuite):
    """What other tests use in place of a process keeps to it too."""

    make = InlineWorker
