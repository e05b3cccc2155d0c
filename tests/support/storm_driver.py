"""A backend of its own process for the campaigns: it takes events, promises predictions and refines; a script.

    python storm_driver.py WORLD LABEL_STUDIO_URL FIRST

WORLD holds ``data`` and, where refinements are to run, ``preset`` and ``films``. Numbers of events and tasks begin at
FIRST; where that is 0, it promises nothing new. Every line of its output is a promise that it made: ``event N`` or
``task N``. It works until it is killed.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from ml_backend.database.server_lock import server_lock
from ml_backend.models.executor import Executor
from ml_backend.predictions import deliveries, late
from ml_backend.predictions.deliveries import Deliveries
from ml_backend.service import Service
from ml_backend.settings import Settings
from ml_backend.web.assemble import build_service
from tests.support import proposal_targets
from tests.support.backend import NamedMedia
from tests.support.storm_targets import Films, storming

PROJECT = 1
MODEL = "tiny-model"
LABEL_CONFIG = (
    '<View><Image name="frames" valueList="$frames"/><BrushLabels name="mask" toName="frames">'
    '<Label value="object"/></BrushLabels></View>'
)
_TASKS = 3  # that are promised at a time
_OPEN = 9  # promises beyond which no further one is made
_REST = 6.0  # seconds between promises where a refinement is to come forward


def void(_: object) -> None:
    """Return nothing."""


if "faketime" in os.environ.get("LD_PRELOAD", ""):
    # libfaketime 0.9.10 breaks clock_nanosleep where it leaves the monotonic clock alone.
    time.sleep = lambda seconds: void(threading.Event().wait(seconds))


def build(world: Path, url: str, term: int | None = None) -> Service:
    """The backend; its back-off takes fractions of a second."""
    late._INTERVAL, deliveries.FIRST_RETRY = 0.2, 0.2
    preset = world / "preset"
    given: dict[str, Any] = {"preset": str(preset)} if preset.exists() else {}
    settings = Settings(
        data_dir=world / "data",
        expression_key="expr",
        label_studio_url=url,
        label_studio_api_key="abc",  # type: ignore[arg-type]
        predict_timeout=0.001,
        repredict=False,
        refine_after=0,
        **given,
    )
    target = partial(storming, preset) if given else proposal_targets.proposing
    loader = Films(world / "films") if given else NamedMedia()
    return build_service(
        settings,
        executor=Executor.local([target]),
        loader=loader,
        base_version="tiny-preset",
        model=MODEL,
        term=term,
    )


def task(number: int) -> dict[str, Any]:
    data = {"film": "film100", "frames": ["a.png", "b.png", "c.png", "d.png"], "expr": f"the ball {number}"}
    return {"id": number, "data": data}


def skipped(number: int) -> dict[str, Any]:
    """The event of an annotation that says nothing but that it is there."""
    annotation = {"id": number, "task": number, "project": PROJECT, "was_cancelled": True, "result": []}
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": annotation,
        "task": task(number),
        "project": {"id": PROJECT},
    }


def main(world: Path, url: str, first: int) -> None:
    settings = Settings(data_dir=world / "data")
    lock = server_lock(settings.database, settings.data_dir)
    print("waits", flush=True)
    while not lock.acquire():
        time.sleep(0.1)
    service = build(world, url, lock.term)
    service.start()
    service.setup({"project": str(PROJECT), "schema": LABEL_CONFIG, "hostname": url})
    refining, rested = (world / "preset").exists(), 0.0
    if first and refining:
        service.refine(str(PROJECT))
    print("up", flush=True)
    if not first:
        threading.Event().wait()
    for number in itertools.count(first, _TASKS):
        service.webhook(skipped(number))
        print("event", number, flush=True)
        # Predictions come before refinements: where a world refines, they leave it time.
        idle = time.monotonic() >= rested if refining else True
        if idle and len(Deliveries(service.database, _OPEN).unclaimed()) < (1 if refining else _OPEN):
            rested = time.monotonic() + _REST
            tasks = [task(number + i) for i in range(_TASKS)]
            service.predict(
                {"tasks": tasks, "project": str(PROJECT), "label_config": LABEL_CONFIG, "params": {}}
            )
            for promised in tasks:
                print("task", promised["id"], flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
