"""How much faster several devices of one machine are than one, through the server's own dispatcher.

Random weights of full size are made on the device in seconds; their answers mean nothing and take as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml_backend.models.examples import CorrectionExample, Pool, TaskRef
from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.messages import (
    MediaFile,
    ModelAnswer,
    ModelRequest,
    PreparedExample,
    PrepareRequest,
    ProposeRequest,
    TrainingProgress,
    TrainRequest,
    is_read_ahead,
    video_of,
)
from ml_backend.models.process import Handler
from ml_backend.models.queue import Priority
from ml_backend.models.shared_training import RowCosts, SharedTraining
from ml_backend.models.workers import ProcessWorker, WorkerState
from ml_backend.settings import Settings
from steerseg.masks import encode_rle
from steerseg.video import VideoLimits, write_video

Models = Literal["demo", "full", "tiny"]
"""The demo's preset; or random weights in the layout of Qwen2.5-VL-7B with SAM 2.1 Large, or in a tiny one."""

_SHAPES = {"demo": (192, 320), "full": (480, 854), "tiny": (54, 96)}
_EXAMPLES = 8
_FRAMES = 16
_SLICE = 3.0  # seconds, as in the server
_WARM_SLICES = 2


@dataclass(frozen=True)
class RandomFactory:
    """Makes random models in a model process, and the handler that answers with them."""

    models: Literal["full", "tiny"]
    device: str

    def __call__(self) -> Handler[ModelRequest, ModelAnswer]:
        import torch

        from benchmarks.gpu.models import make_lvlm, make_preset, make_prompts, make_tracker
        from ml_backend.models.handler import ModelHandler
        from steerseg.pipeline import SteerSeg

        device = torch.device(self.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        lvlm = make_lvlm(self.models, device, dtype)
        tracker = make_tracker(self.models, device, dtype)
        prompts = make_prompts(lvlm, self.models)
        handler = ModelHandler(SteerSeg(lvlm, tracker, make_preset(self.models), prompts), VideoLimits())
        handler.warm_up(compiled=False)
        return handler


@dataclass(frozen=True)
class Comparison:
    """The pace of one worker, and of several.

    Attributes:
        what: What was counted.
        alone: How many of them are made in an hour where one device works at a time.
        together: The same where all work at once.
    """

    what: str
    alone: float
    together: float

    @property
    def ratio(self) -> float:
        """How many times faster all are."""
        return self.together / self.alone


@contextmanager
def workers(models: Models, devices: Sequence[str], folder: Path) -> Iterator[ModelExecutor]:
    """The server's dispatcher with a ready model process for each device, as ``serve --device`` starts them."""
    executor: ModelExecutor
    if models == "demo":
        # With Label Studio's SDK, which random models need not.
        from ml_backend.web.assemble import _build_executor

        given = {"data_dir": folder, "preset": "demo", "device": ",".join(devices)}
        executor = _build_executor(Settings.model_validate(given))
    else:
        processes: list[ProcessWorker[ModelRequest, ModelAnswer]] = [
            ProcessWorker(RandomFactory(models, device), device=device, reads_ahead=is_read_ahead)
            for device in devices
        ]
        executor = Executor(processes, video_of=video_of, warm=True)
    try:
        while not all(status.state is WorkerState.READY for status in executor.statuses):
            failed = [status.error for status in executor.statuses if status.state is WorkerState.FAILED]
            if failed:
                raise SystemExit(f"the models could not be loaded: {failed[0]}")
            time.sleep(0.1)
        yield executor
    finally:
        executor.close()


def compare(
    models: Models, devices: Sequence[str], folder: Path, *, count: int, seconds: float
) -> Iterator[Comparison]:
    """Compare one device at a time with all of them, in proposals and in trainings.

    Args:
        models: What the workers load, once for everything.
        devices: Their devices.
        folder: For films and what is prepared.
        count: Videos that are proposed for in each way; every one is new to the workers.
        seconds: How long each way trains.
    """
    with workers(models, devices, folder) as executor:
        yield _compare_proposals(executor, models, len(devices), folder, count)
        yield _compare_trainings(executor, models, folder, seconds)


def _compare_proposals(
    executor: ModelExecutor, models: Models, devices: int, folder: Path, count: int
) -> Comparison:
    films = (
        _write_film(folder / f"film-{index}", models, 3 * _FRAMES, index)[0]
        for index in range(devices + 2 * count)
    )
    requests = [ProposeRequest(film, "the moving block", None, 1) for film in films]
    _all(executor, requests[:devices])  # first uses
    began = time.monotonic()
    for request in requests[devices : devices + count]:
        _all(executor, [request])
    between = time.monotonic()
    _all(executor, requests[devices + count :])
    return Comparison(
        "proposals", 3600 * count / (between - began), 3600 * count / (time.monotonic() - between)
    )


def _compare_trainings(executor: ModelExecutor, models: Models, folder: Path, seconds: float) -> Comparison:
    def ask_all(requests: Sequence[ModelRequest]) -> list[ModelAnswer]:
        jobs = [executor.submit(request, priority=Priority.REFINEMENT) for request in requests]
        return [job.result() for job in jobs]

    def alone(request: TrainRequest) -> ModelAnswer:
        return ask_all([request])[0]

    shared = SharedTraining(ask_all, lambda: executor.free_for(Priority.REFINEMENT), RowCosts())
    training = _prepare(executor, models, folder)
    for slices in (alone, shared.train):  # first uses, which compile kernels and measure what rows cost
        for _ in range(_WARM_SLICES):
            slices(replace(training, name="warm"))
    return Comparison(
        "steps of a training",
        _steps_per_hour(alone, replace(training, name="alone"), seconds),
        _steps_per_hour(shared.train, replace(training, name="together"), seconds),
    )


def _steps_per_hour(
    slices: Callable[[TrainRequest], ModelAnswer], training: TrainRequest, seconds: float
) -> float:
    """The pace of a training, slice by slice as in the server."""
    began = time.monotonic()
    while True:
        progress = slices(training)
        assert isinstance(progress, TrainingProgress)
        took = time.monotonic() - began
        if took >= seconds or progress.step == progress.steps:
            return 3600 * progress.step / took


def _prepare(executor: ModelExecutor, models: Models, folder: Path) -> TrainRequest:
    """Have examples prepared, each of a film of its own."""
    prepared = folder / "prepared"
    requests = []
    for number in range(_EXAMPLES):
        film, masks = _write_film(folder / f"example-{number}", models, _FRAMES, 100 + number)
        example = CorrectionExample(
            key=f"c{number}",
            correction=number,
            revision="r",
            video=f"film{number}",
            group=f"film{number}",
            expression="the moving block",
            pool=Pool.NEW,
            weight=1.0,
            truth={index: encode_rle(mask) for index, mask in enumerate(masks)},
            shares=dict.fromkeys(range(len(masks)), 1.0),
            decided=frozenset(range(len(masks))),
            rejected=(),
            num_frames=len(masks),
            height=masks.shape[1],
            width=masks.shape[2],
            task=TaskRef(number, {}, ""),
        )
        requests.append(PrepareRequest(example, MediaFile(film, None), prepared, folder / "features"))
    jobs = [executor.submit(request, priority=Priority.REFINEMENT) for request in requests]
    for job in jobs:
        answer = job.result()
        assert isinstance(answer, PreparedExample)
        assert answer.teaches
    keys = tuple(request.example.key for request in requests)
    return TrainRequest("", prepared, folder / "features", {Pool.NEW: keys}, None, _SLICE)


def _write_film(path: Path, models: Models, frames: int, seed: int) -> tuple[Path, NDArray[np.bool_]]:
    """Write a block that moves over noise; the file, and its masks (T, H, W)."""
    height, width = _SHAPES[models]
    rng = np.random.default_rng(seed)
    pixels = np.repeat(rng.integers(0, 90, (1, height, width, 3), dtype=np.uint8), frames, axis=0)
    masks = np.zeros((frames, height, width), dtype=bool)
    for index in range(frames):
        left = (seed * 7 + index * width // 64) % (width // 2)
        masks[index, height // 4 : height // 2, left : left + width // 5] = True
    pixels[masks] = rng.integers(150, 255, 3)
    file = path.with_suffix(".mp4")
    write_video(file, iter(pixels), 12)
    return file, masks


def _all(executor: ModelExecutor, requests: Sequence[ModelRequest]) -> None:
    for job in [executor.submit(request) for request in requests]:
        job.result()
