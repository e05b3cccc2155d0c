"""Storms, bombs and long runs against the backend, measured; ``tests/adversarial`` asserts what they must never do.

python -m benchmarks.adversarial clients --seconds 20    # /health while slow and fat clients stand
python -m benchmarks.adversarial bombs                   # memory of what decodes and what reads annotations
python -m benchmarks.adversarial cost                    # decoding in a process of its own against in this one
python -m benchmarks.adversarial drift --predictions 1000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from benchmarks.adversarial import bombs
from benchmarks.adversarial.clients import ask, weather
from benchmarks.adversarial.processes import below, resident
from ml_backend.label_studio.region_masks import masks_by_page, page_masks
from steerseg.errors import SteerSegError
from steerseg.video import VideoLimits, load_video
from steerseg.video.isolation import IsolatedDecoder

_LIMITS = VideoLimits(bare_streams=False)
_CONFIG = """<View><Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/>
<Labels name="labels" toName="video"><Label value="object"/></Labels>
<TextArea name="expression" toName="video"/></View>"""
_PROJECT = "1.1"
_CLIPS = 6
_AT_ONCE = 20  # tasks of one request


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adversarial", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("clients").add_argument("--seconds", type=float, default=10.0)
    commands.add_parser("bombs")
    commands.add_parser("cost").add_argument("--repeat", type=int, default=10)
    commands.add_parser("drift").add_argument("--predictions", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.command == "clients":
            measure_clients(folder, arguments.seconds)
        elif arguments.command == "bombs":
            measure_bombs(folder)
        elif arguments.command == "cost":
            measure_cost(folder, arguments.repeat)
        else:
            measure_drift(folder, arguments.predictions)


@contextlib.contextmanager
def serving(folder: Path, **settings: str) -> Iterator[tuple[str, int]]:
    """A real server: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "STEERSEG_PORT": str(port),
        "STEERSEG_DATA_DIR": str(folder / "data"),
        "STEERSEG_LOG_LEVEL": "WARNING",
        **settings,
    }
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-m", "ml_backend.cli", "serve"], env=environment) as server:
        try:
            while ask(url, 5.0) == float("inf"):
                time.sleep(0.2)
            yield url, server.pid
        finally:
            server.terminate()


def measure_clients(folder: Path, seconds: float) -> None:
    """Print how long ``/health`` takes under every storm."""
    with serving(folder, STEERSEG_WEBHOOK_SECRET="secret", STEERSEG_WARM="false") as (url, server):
        print("storm                              clients  answers  median s  worst s  server MiB")
        for name, count, answers in weather(url, seconds):
            memory = resident(server) / 2**20
            median = statistics.median(answers.seconds)
            print(
                f"{name:34} {count:7} {len(answers.seconds):8} {median:9.3f} {answers.worst:8.3f} {memory:11.0f}",
                flush=True,
            )


def measure_bombs(folder: Path) -> None:
    """Print the memory that each bomb takes above an idle process, and how it ended."""
    path = folder / "bomb.mp4"
    page, exif = folder / "page.jpg", folder / "exif.jpg"
    bombs.progressive_jpeg(page, scans=60)
    bombs.heavy_exif(exif, 63)
    pages = {
        "progressive JPEG": bombs.frames_folder(folder / "progressive", [page]),
        "63 MiB of EXIF": bombs.frames_folder(folder / "exif", [exif]),
    }
    makers: dict[str, Callable[[Path], None]] = {
        "three small frames": lambda path: bombs.black_video(path, 3, (64, 64)),
        "index of 268 million samples": lambda path: bombs.long_index(path, 2**28),
        "900 frames of 1080p": lambda path: bombs.black_video(path, 900, (1920, 1080)),
        "10 frames of 4096 x 2304": lambda path: bombs.black_video(path, 10, (4096, 2304)),
        "frames of 8000 x 8000": lambda path: bombs.black_video(path, 2, (8000, 8000)),
    }
    print("bomb                            KiB  decoder MiB  seconds  end")
    for name, make in makers.items():
        make(path)
        _decode(name, path)
    for fillers in (100_000, 1_000_000):
        bombs.transport_stream(path.with_suffix(".ts"), fillers)
        _decode(f"{fillers} fillers in MPEG-TS", path.with_suffix(".ts"))
    bombs.raw_stream(path.with_suffix(".h264"), 300_000)
    _decode("bare stream", path.with_suffix(".h264"))
    for name, place in pages.items():
        _decode(name, place)
    _alone("30 polygons of 8000 x 8000", lambda: _read(bombs.polygons(30)))
    _alone("3 brush regions of 8000 x 8000", lambda: _read(bombs.brushes(3)))


def _read(regions: Sequence[dict[str, Any]]) -> str:
    return f"{len(masks_by_page(page_masks(regions)))} pages"


def _decode(name: str, path: Path) -> None:
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path])) // 1024

    def act() -> str:
        with contextlib.closing(IsolatedDecoder(_LIMITS)) as decoder:
            try:
                return f"{decoder.load_video(path).frames.shape}"
            except SteerSegError as error:
                return str(error).replace(str(path), "it")[:100]

    _alone(f"{name:30} {size:6}", act)


def _alone(name: str, act: Callable[[], object]) -> None:
    """Do it in a process of its own, and print the most memory that it and its children took above idle."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.monotonic()
        end = act()
        seconds = time.monotonic() - begin
        most = max(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle,
            resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        )
        os.write(writer, json.dumps([most / 1024, seconds, str(end)]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        most, seconds, end = json.loads(answer.read())
    os.waitpid(child, 0)
    print(f"{name:37} {most:11.0f} {seconds:8.1f}  {end}", flush=True)


def measure_cost(folder: Path, repeat: int) -> None:
    """Print what decoding in a process of its own costs, as a ratio to decoding in this one."""
    print("video              here s  apart s  ratio")
    with contextlib.closing(IsolatedDecoder(_LIMITS)) as decoder:
        decoder.start()
        for frames, size in ((35, (480, 270)), (300, (640, 360)), (250, (1920, 1080))):
            path = folder / f"{size[0]}.mp4"
            bombs.black_video(path, frames, size)
            time.sleep(3.0)
            here = _median(lambda: load_video(path, limits=_LIMITS).frames.sum(), repeat)  # noqa: B023
            apart = _median(lambda: decoder.load_video(path).frames.sum(), repeat)  # noqa: B023
            print(f"{frames:4} of {size[0]}x{size[1]:<6} {here:8.3f} {apart:8.3f} {apart / here:6.2f}")


def _median(act: Callable[[], Any], repeat: int) -> float:
    seconds = []
    for _ in range(repeat):
        begin = time.monotonic()
        act()
        seconds.append(time.monotonic() - begin)
        time.sleep(1.0)  # as long as a proposal at least: the next process starts meanwhile
    return statistics.median(seconds)


def measure_drift(folder: Path, predictions: int) -> None:
    """Print the memory of server and model process while predictions are made."""
    clips = [folder / f"clip-{number}.mp4" for number in range(_CLIPS)]
    for number, clip in enumerate(clips):
        bombs.black_video(clip, 8 + number, (96, 64))
    settings = {
        "STEERSEG_LOCAL_ROOTS": json.dumps([str(folder)]),
        "STEERSEG_PREDICT_TIMEOUT": "3600",
        "STEERSEG_PUSH_PREDICTIONS": "false",
    }
    with serving(folder, **settings) as (url, server):
        described = {
            "project": _PROJECT,
            "schema": _CONFIG,
            "hostname": "http://127.0.0.1:1",
            "access_token": "",
        }
        requests.post(f"{url}/setup", json=described, timeout=60).raise_for_status()
        measured: list[tuple[int, float, float]] = []
        for first in range(0, predictions, _AT_ONCE):
            _predict(url, clips, range(first + 1, min(predictions, first + _AT_ONCE) + 1))
            measured.append((first + _AT_ONCE, *_memory(server)))
            if first % (10 * _AT_ONCE) == 0 or first + _AT_ONCE >= predictions:
                print(
                    "{:6} predictions: server {:7.1f} MiB, models {:7.1f} MiB".format(*measured[-1]),
                    flush=True,
                )
    warm, end = measured[len(measured) // 5], measured[-1]
    for name, before, after in zip(("server", "models"), warm[1:], end[1:], strict=True):
        print(f"{name}: {100 * (after / before - 1):+.2f} % from prediction {warm[0]} to {end[0]}")


def _predict(url: str, clips: Sequence[Path], numbers: Sequence[int]) -> None:
    tasks = [
        {"id": n, "data": {"video": str(clips[n % len(clips)]), "expression": f"the red square number {n}"}}
        for n in numbers
    ]
    body = {"tasks": tasks, "project": _PROJECT, "label_config": _CONFIG, "params": {"context": None}}
    answer = requests.post(f"{url}/predict", json=body, timeout=3600)
    answer.raise_for_status()


def _memory(server: int) -> tuple[float, float]:
    """MiB of the server, and of the largest process below it: the models."""
    models = max((resident(child) for child in below(server)), default=0)
    return resident(server) / 2**20, models / 2**20


if __name__ == "__main__":
    main()
