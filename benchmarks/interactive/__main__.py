"""``python -m benchmarks.interactive``: what an annotator waits for, through the real model process.

The clip is a rendered one of the demo's test split, cut or repeated to the wanted frames. Times are seconds of
one run on this machine, of the model process alone: Label Studio and the browser are not in them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ml_backend.models.executor import Executor, ModelExecutor
from ml_backend.models.messages import FramePrompt, ProposeRequest, SteerAnswer, SteerRequest
from ml_backend.models.queue import ModelJob, Priority
from ml_backend.models.workers import ModelFactory
from ml_backend.proposals import StoredProposal
from steerseg.demo.dataset import load_manifest, render_scene, scene_of
from steerseg.demo.sprites import load_atlas
from steerseg.masks import RLE, decode_rle, mask_area
from steerseg.video import VideoLimits

GOALS = {"first expression": 8.0, "click": 3.0}
"""Seconds that these may take with the preset demo, 48 frames and two cores."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interactive", description=__doc__)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--clicks", type=int, default=5)
    parser.add_argument("--clip", default="test-0009", help="of the demo's test split")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expressions = _write_pages(folder, options.clip, options.frames)
        print(
            f"{options.frames} pages of {options.clip}, preset {options.preset} on {options.device}, "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before"
        )
        executor: ModelExecutor = Executor.local(
            [ModelFactory(options.preset, options.device, VideoLimits())]
        )
        try:
            for what, seconds in _measure(executor, folder, expressions, options.clicks).items():
                goal = (
                    f"  (goal {GOALS[what]:.0f} s, ratio {seconds / GOALS[what]:.2f})"
                    if what in GOALS
                    else ""
                )
                print(f"{what:24} {seconds:6.2f} s{goal}")
        finally:
            executor.close()


def _write_pages(folder: Path, clip: str, count: int) -> tuple[str, ...]:
    """Write the clip's frames as numbered pages; return its expressions."""
    manifest = load_manifest("test")
    entry = next(entry for entry in manifest.clips if entry.video == clip)
    frames, _ = render_scene(scene_of(manifest, entry), load_atlas(manifest.world.styles))
    there_and_back = np.concatenate([frames, frames[-2:0:-1]])
    for index in range(count):
        picture = Image.fromarray(there_and_back[index % len(there_and_back)])
        picture.save(folder / f"{index:05d}.jpg", quality=92)
    return tuple(expression.text for expression in entry.expressions)


def _measure(
    executor: ModelExecutor, folder: Path, expressions: Sequence[str], clicks: int
) -> Mapping[str, float]:
    """Seconds by what was asked."""

    def timed(request: ProposeRequest | SteerRequest) -> tuple[Any, float]:
        started = time.perf_counter()
        answer = executor.submit(request, priority=Priority.INTERACTIVE).result()
        return answer, time.perf_counter() - started

    def words(text: str, media: Path = folder) -> ProposeRequest:
        return ProposeRequest(media=media, expression=text, fps=12.0, alternatives=3)

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        warm = Path(name)
        for index in range(8):
            (warm / f"{index:05d}.jpg").write_bytes((folder / f"{index:05d}.jpg").read_bytes())
        _, found["models loaded"] = timed(words(expressions[0], warm))
    proposal, found["first expression"] = timed(words(expressions[0]))
    assert isinstance(proposal, StoredProposal)
    _, found["further expression"] = timed(words(expressions[-1]))
    track = tuple(rle if mask_area(rle) else None for rle in proposal.tracklets[0].rles)
    visible = [t for t, rle in enumerate(track) if rle is not None]

    def steer(**changes: Any) -> SteerRequest:
        given: dict[str, Any] = {"prompts": {}, "painted": {}, "hidden": frozenset(), **changes}
        anchor = proposal.tracklets[0].prompt.frame
        return SteerRequest(media=folder, fps=12.0, track=track, anchor=anchor, **given)

    def median(ask: Callable[[int], SteerRequest], *, batch: bool = False) -> float:
        times = []
        for number in range(clicks):
            others = _begin_batch(executor, words(f"{expressions[0]} {number}"), number) if batch else []
            answer, seconds = timed(ask(visible[number * len(visible) // clicks]))
            assert isinstance(answer, SteerAnswer)
            times.append(seconds)
            for other in others:
                other.result()
        return statistics.median(times)

    def click(page: int) -> SteerRequest:
        return steer(prompts={page: FramePrompt((_middle(track[page]),), (True,))})

    found["click"] = median(click)
    found["click off the object"] = median(
        lambda t: steer(prompts={t: FramePrompt(((0.02, 0.02),), (False,))})
    )
    found["click during a batch"] = median(click, batch=True)
    found["box"] = median(lambda t: steer(prompts={t: FramePrompt(box=_box(track[t]))}))
    found["stroke"] = median(lambda t: steer(painted={t: track[t]}))
    return found


def _begin_batch(executor: ModelExecutor, request: ProposeRequest, number: int) -> list[ModelJob[Any, Any]]:
    """Two proposals of a batch, the first of them some way on its way."""
    requests = (request, replace(request, expression=f"{request.expression} again"))
    jobs = [executor.submit(each, priority=Priority.BATCH) for each in requests]
    time.sleep(0.2 + 0.3 * number)
    return jobs


def _middle(rle: RLE | None) -> tuple[float, float]:
    x, y, width, height = _box(rle)
    return x + width / 2, y + height / 2


def _box(rle: RLE | None) -> tuple[float, float, float, float]:
    assert rle is not None
    rows, columns = np.nonzero(decode_rle(rle))
    height, width = rle["size"]
    left, top = columns.min() / width, rows.min() / height
    return left, top, (columns.max() + 1) / width - left, (rows.max() + 1) / height - top


if __name__ == "__main__":
    main()
